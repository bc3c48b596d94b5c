"""Immutable, hashed preference snapshots, and the training data read back out of them."""
