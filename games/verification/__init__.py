"""The verification game: a provider claims to have forgotten, and the owners of the records check."""
