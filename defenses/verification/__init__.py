"""Verifications: how owners of deleted records find out whether they were forgotten."""
