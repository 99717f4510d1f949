"""Request game: the requester's deletion requests make the model misbehave."""
