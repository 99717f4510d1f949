"""What a provider publishes of its results, and how exactly."""
