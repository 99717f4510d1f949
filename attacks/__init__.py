"""Attacks on machine unlearning, one package per malicious party."""
