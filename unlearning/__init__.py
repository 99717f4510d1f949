"""Procedures that learn and forget, and what a provider shows of them to the outside."""
