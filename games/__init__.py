"""The games: each composes data, models, procedures, attacks and defenses into one measured outcome."""
