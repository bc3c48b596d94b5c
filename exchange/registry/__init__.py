"""The registry port (published adapters, snapshots) and its implementations."""
