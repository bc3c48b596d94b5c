"""The key store for sealed content: the port and its implementations."""
