"""Every setting of the Kafka log. Knows names, defaults and limits; connects to nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from exchange.log.security import SecuritySettings

MESSAGE_BYTES = 8 * 2**20 + 64 * 2**10
"""`max.message.bytes` of the topics that Attune makes; Kafka counts its own framing."""


class KafkaSettings(SecuritySettings):
    """How a process talks to Kafka. Means nothing where the log is another."""

    producer: Literal["kafka-python", "confluent"] = Field(
        default="kafka-python",
        description="client library that writes; `confluent` is faster and needs the extra `attune[confluent]`",
    )
    compression: Literal["zstd", "gzip", "none"] = Field(
        default="zstd", description="how batches of records are compressed before they are sent"
    )
    max_message_bytes: int = Field(
        default=MESSAGE_BYTES,
        ge=10_000,
        description="largest record in bytes, after compression, that the topics take (their `max.message.bytes`); "
        "what stays larger is put beside the registry, and a claim on it is sent",
    )
    auto_create_topics: bool = Field(
        default=True,
        description="make topics that are missing when the log is first used: for development; in production set it "
        "to false and run `attune topics apply`",
    )
    replication_factor: int | None = Field(
        default=None,
        ge=1,
        description="copies of each topic that is made; default: 3 where the cluster has them, else 1",
    )
    min_insync_replicas: int | None = Field(
        default=None,
        ge=1,
        description="copies that must have a record before it is acknowledged; default: 2 of 3, else 1",
    )
    connect_seconds: float = Field(
        default=3.0, gt=0, description="seconds that one try to reach a broker that does not answer may take"
    )
    request_seconds: float = Field(
        default=10.0, gt=0, description="seconds until a request to a broker is given up, though the broker was there"
    )
    delivery_seconds: float = Field(
        default=20.0, gt=0, description="seconds until records that the brokers have not confirmed are given up"
    )
