"""The cable that the fault suite cuts: it carries, it can be cut in both ways, and it carries again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.running import free_port
from tests.faults.wire import Wire


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def say(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word)
    return connection.recv(100)


def test_it_carries_both_ways_and_is_cut_and_mended(echo: int) -> None:
    port = free_port()
    with Wire(port, echo) as wire:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            assert say(connection, b"one") == b"one"
            wire.sever()
            assert connection.recv(100) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
        wire.mend()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            assert say(connection, b"two") == b"two"


def test_a_stalled_one_holds_what_is_said_until_it_is_mended(echo: int) -> None:
    port = free_port()
    with Wire(port, echo) as wire, socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        wire.stall()
        connection.sendall(b"held")
        with pytest.raises(TimeoutError):
            connection.recv(100)
        wire.mend()
        connection.settimeout(10)
        assert connection.recv(100) == b"held"
