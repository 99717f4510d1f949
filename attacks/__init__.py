"""Attacks on machine unlearning: one package of methods per malicious party, and what requesters craft with."""
