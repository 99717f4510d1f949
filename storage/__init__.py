"""The content-addressed store: artifacts named by what determines them, written whole, verified when read."""
