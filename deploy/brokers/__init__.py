"""Real Apache Kafka brokers on this machine without Docker: one, or a cluster; for tests, the demo and development."""
