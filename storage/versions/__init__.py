"""What results depend on beside settings, as hashes: the code of components, and the files that options name."""
