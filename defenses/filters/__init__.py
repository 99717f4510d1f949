"""Request game: the provider filters suspicious deletion requests."""
