"""The event-log port and its implementations: in memory, on SQLite, on Kafka."""
