"""Free TCP ports of loopback that stay free while a broker is down."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

from schemas.errors import Unavailable

# Below Linux's range for outgoing connections: one of those would take the port of a broker that is down, and a client
# that tries to reach such a port again and again ends up connected to itself.
_LOWEST, _HIGHEST = 20_000, 32_000


def free_ports(count: int) -> tuple[int, ...]:
    """Different ports that nothing listens on. Raises Unavailable where too few can be found."""
    with ExitStack() as held:
        found: list[int] = []
        for port in random.sample(range(_LOWEST, _HIGHEST), 200):
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            if _bound(probe, port) is None:
                found.append(port)
    if len(found) < count:
        raise Unavailable(f"no {count} free ports between {_LOWEST} and {_HIGHEST}")
    return tuple(found)


def require_free(port: int) -> int:
    """The port itself. Raises Unavailable where something listens on it."""
    with socket.socket() as probe:
        if (error := _bound(probe, port)) is not None:
            raise Unavailable(f"port {port} is taken: {error}")
    return port


def _bound(probe: socket.socket, port: int) -> OSError | None:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do: an old connection is no hindrance
    try:
        probe.bind(("127.0.0.1", port))
    except OSError as error:
        return error
    return None
