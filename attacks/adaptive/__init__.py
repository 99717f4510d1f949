"""Adaptive attackers: what one that knows of a filter does otherwise, a strategy a file."""
