"""A broker that demands encryption and credentials, and lets each principal do only what it was given. For tests.

Two listeners: SASL_SSL takes PLAIN and SCRAM-SHA-512, SSL takes a certificate of the client's. Everything is made on
the spot and lies in the broker's folder.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.brokers.broker import Broker
from deploy.brokers.certificates import Authority, Certificates, make_certificates
from deploy.brokers.node import Access, Node
from deploy.brokers.ports import free_ports
from exchange.closeable import Closeable

ADMIN = "admin"
_LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class SecureBroker(Closeable):
    """A running broker, what clients need to reach it, and everybody's password by name (`ADMIN` may do anything).

    `bootstrap` speaks SASL_SSL; `certificate_bootstrap` SSL, to whom shows `client`, whose principal is `User:CN=NAME`.
    """

    broker: Broker
    certificate_bootstrap: str
    certificates: Certificates
    client: Certificates
    passwords: Mapping[str, str]

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of the listener that asks for a password."""
        return self.broker.bootstrap

    def close(self) -> None:
        self.broker.stop()


def start_secure_broker(folder: Path, users: tuple[str, ...], *, heap_mb: int = 256) -> SecureBroker:
    """Start one with these users besides `ADMIN`, and wait until it answers. They may do nothing yet.

    Raises:
        ConfigError: Java 17 or Maven is missing; the message says what to install.
        Unavailable: Kafka could not be downloaded or did not come up.
    """
    authority = Authority.new()
    own, client = (make_certificates(folder, name, ca_from=authority) for name in ("broker", "client"))
    passwords = {name: secrets.token_hex(16) for name in (ADMIN, *users)}
    port, certificate_port, controller = free_ports(3)
    access = Access("SASL_SSL", _properties(own, passwords), _scram(passwords), {"SSL": certificate_port})
    broker = Broker(Node(1, port, controller, folder), access=access, heap_mb=heap_mb)
    broker.start()
    return SecureBroker(broker, f"127.0.0.1:{certificate_port}", own, client, passwords)


def _properties(own: Certificates, passwords: Mapping[str, str]) -> dict[str, str]:
    users = " ".join(f'user_{name}="{password}"' for name, password in passwords.items())
    plain = f'{_LOGIN}.plain.PlainLoginModule required username="{ADMIN}" password="{passwords[ADMIN]}" {users};'
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(own.both.absolute()),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(own.ca.absolute()),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": plain,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        # The broker asks its own controller without a name; on the listeners for clients nobody is without one.
        "super.users": f"User:{ADMIN};User:ANONYMOUS",
    }


def _scram(passwords: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        argument
        for name, password in passwords.items()
        for argument in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
    )
