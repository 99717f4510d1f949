"""Tables over the store: its artifacts (store.py), and its finished games (results.py)."""
