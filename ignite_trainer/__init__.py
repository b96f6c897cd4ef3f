"""The training loop that people write by hand, run as two Ignite engines."""
