"""Scripts that compose a victim, an unlearning procedure, an attack and a defense."""
