"""Tables of a paper: rows that are played where they are missing, and claims that are checked."""
