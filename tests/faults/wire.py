"""A piece of cable between a server and its broker, to be cut: a TCP forwarder on loopback.

`sever` ends every connection and refuses new ones. `stall` is the worse fault: connections stay, and nothing comes
through any more, as when a cable is pulled. The broker must advertise the cable's port, or clients go round it.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65_536
_LOOK_S = 0.2


class Wire:
    """Forwards from its own port to another one of this machine while its context lasts."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._whole = threading.Event()
        self._whole.set()
        self._quit = threading.Event()
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = threading.Event()
        self._spawn(self._accept, self._listen())

    def sever(self) -> None:
        """End all connections and take no new ones."""
        self._whole.clear()
        while self._listening.is_set():  # only the thread that waits for connections can stop listening at once
            time.sleep(0.01)
        self._drop()

    def stall(self) -> None:
        """Keep all connections, take new ones, and let nothing through."""
        self._flowing.clear()

    def mend(self) -> None:
        """As it was."""
        self._whole.set()
        self._listening.wait(10)
        self._flowing.set()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        listener.settimeout(_LOOK_S)
        return listener

    def _spawn(self, role: object, *words: object) -> None:
        thread = threading.Thread(target=role, args=words, name="wire", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            self._listening.set()
            while self._whole.is_set() and not self._quit.is_set():
                with suppress(TimeoutError):
                    self._join_up(listener.accept()[0])
            listener.close()
            self._listening.clear()
            while not self._whole.wait(_LOOK_S) and not self._quit.is_set():
                pass
            if self._quit.is_set():
                return
            listener = self._listen()

    def _join_up(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            near.close()
            return
        with self._lock:
            self._ends += [near, far]
        for source, target in ((near, far), (far, near)):
            source.settimeout(None)
            self._spawn(self._pump, source, target)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                while not self._flowing.wait(_LOOK_S):
                    if self._quit.is_set():
                        return
                target.sendall(data)
        self._shut(source, target)

    def _shut(self, *ends: socket.socket) -> None:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        with self._lock:
            self._shut(*self._ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quit.set()
        self._drop()
        for thread in self._threads:
            thread.join(10)
        for end in self._ends:
            end.close()
