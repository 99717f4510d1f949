"""Benchmarks: measured in one run against the plain loop that a researcher would write."""
