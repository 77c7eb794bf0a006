"""A lock becomes an image."""
