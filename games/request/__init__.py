"""The request game: a requester sends malicious deletion requests, and the provider filters them."""
