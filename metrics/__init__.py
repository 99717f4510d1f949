"""Measurements. Pure functions of tensors: no model, no random state, no file is touched."""
