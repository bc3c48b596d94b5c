"""Ends vLLM's processes with the server that started them, however it went.

vLLM's engine process outlives a `kill -9` of its server and keeps its memory, which on a GPU is all there is: no server
could start there again. The workers watch; where they are processes of their own (tensor parallelism), vLLM's engine
core, which holds no memory then, ends by itself once it has lost them. Knows process ids of one machine; knows no vLLM.
"""

from __future__ import annotations

import os
import select
import threading


def end_with(server: int) -> None:
    """From now on this process ends at once when the process `server` has ended. A process does not watch itself.

    Raises:
        ProcessLookupError: there is no such process (any more).
    """
    if server == os.getpid():
        return
    gone = os.pidfd_open(server)
    threading.Thread(target=_end_after, args=(gone,), name="attune-server-watch", daemon=True).start()


def _end_after(gone: int) -> None:
    select.select([gone], [], [])
    os._exit(1)  # nothing is left to be done in order: nobody waits for an answer
