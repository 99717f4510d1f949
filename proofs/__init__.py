"""Proofs of training: what a provider writes down of every step, and what others can check in it."""
