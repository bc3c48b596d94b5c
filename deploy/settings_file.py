"""What a server's and a trainer's settings have in common, from a file of either."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import EventLog
from exchange.open import open_log
from exchange.settings import read_toml
from server.settings import ServerSettings
from server.settings import load_settings as load_server
from trainer.settings import TrainerSettings
from trainer.settings import load_settings as load_trainer


@dataclass(frozen=True)
class Shared:
    """The settings that both processes share, and those of the process."""

    process: ServerSettings | TrainerSettings
    log: str
    registry: str
    kafka: KafkaSettings

    def open_log(self) -> EventLog:
        """The event log. Raises ConfigError and Unavailable."""
        return open_log(self.log, kafka=self.kafka, registry=self.registry)


def load_any(path: Path) -> Shared:
    """The settings of a file, which tells by its sections whose it is. Raises ConfigError with what is wrong."""
    values = read_toml(path, missing="Name one with -c.")
    if {"server", "engine", "chat", "swap"} & values.keys():
        server = load_server(path)
        return Shared(server, server.server.log, server.server.registry, server.kafka)
    trainer = load_trainer(path)
    return Shared(trainer, trainer.log, trainer.registry, trainer.kafka)
