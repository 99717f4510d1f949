"""Defenses, one package per game."""
