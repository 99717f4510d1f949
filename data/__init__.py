"""Real data sets as tensors in memory. One file a data set; the nouns are in `data.examples`."""
