"""Data: orders, loaders and images."""
