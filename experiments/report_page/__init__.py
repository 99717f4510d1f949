"""The HTML page of `experiments/report.py`: one file with its data, code and pictures, and no use of a network."""
