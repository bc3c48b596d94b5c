"""The event log on Apache Kafka: `exchange.log.kafka.log` has it, `exchange.log.kafka.settings` its settings.

Importing this package loads neither of the two client libraries.
"""
