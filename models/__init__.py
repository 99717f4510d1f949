"""Victim architectures, training, and what one can ask of a trained model: gradients and curvature."""
