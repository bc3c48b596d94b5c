"""The port between the server and its inference engine.

Knows what the server may ask of an engine; knows no implementation. `server.engine.build` has the one on vLLM,
`server.engine.memory` the one without.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from starlette.types import ASGIApp

from server.engine.record import EngineRecord
from server.files.base_layers import BaseLayers

Sink = Callable[[EngineRecord], None]
"""Takes one record. Called on the event loop, so it must neither block nor await; an exception it raises fails the
request.
"""


class Engine(Protocol):
    """A running engine: an OpenAI-compatible app over one base model and its LoRA adapters.

    Adapters are addressed by name; a name is never reused for other weights. All methods are called on the event loop
    the engine was opened on.
    """

    @property
    def app(self) -> ASGIApp:
        """The OpenAI-compatible app. Records only requests made while `server.request.context.current_request` is set.

        `model` in a body is one of `base_names` or of `loaded()`; the id of an answer comes from the `X-Request-Id`
        header.
        """
        ...

    @property
    def base_names(self) -> tuple[str, ...]:
        """Names under which the base model without adapter is served, e.g. `support@v0`."""
        ...

    @property
    def base_fingerprint(self) -> str:
        """`exchange.fingerprint.base_fingerprint` of the base model's files."""
        ...

    @property
    def chat_template_hash(self) -> str:
        """`exchange.fingerprint.chat_template_hash` of the template that renders prompts."""
        ...

    @property
    def base_layers(self) -> BaseLayers:
        """The layers of the base model that an adapter can speak of; empty where they are not known."""
        ...

    @property
    def dtype(self) -> str:
        """Type the weights are computed in: float32, bfloat16 or float16."""
        ...

    @property
    def max_model_len(self) -> int:
        """Longest prompt and answer together, in tokens."""
        ...

    @property
    def errored(self) -> bool:
        """True once the engine has died; it does not recover."""
        ...

    def progress_age_s(self) -> float:
        """Seconds since the engine last made a token (or since it was opened, if it made none)."""
        ...

    def set_sink(self, sink: Sink) -> None:
        """Give records to `sink` from now on, in place of any sink before it."""
        ...

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load the PEFT folder at `path` as `name`. The files must stay there until `unload_adapter(name)`.

        `path` names its content: after an unload the name may come back from the same path, and from no other.
        Raises AdapterError when the name is loaded or was used for another path, or the engine refuses the files.
        """
        ...

    async def probe(self, name: str) -> str:
        """Generate a few tokens with the adapter or base name, unrecorded, and return their text.

        Raises AdapterError when the name is not loaded or the engine cannot generate with it.
        """
        ...

    async def score(self, name: str, prompt_ids: list[int], answer_ids: list[int]) -> list[float]:
        """Log-probabilities (nats, temperature 1) of each of `answer_ids` after `prompt_ids`, unrecorded.

        Raises AdapterError when the name is not loaded, or the tokens are too many or none of the vocabulary.
        """
        ...

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Count one more user of `name` while the context lasts, so that `drain` waits for it.

        The engine holds a name by itself while it generates; a caller that chose a name earlier holds it from then on.
        """
        ...

    def in_flight(self, name: str) -> int:
        """Number of holders of `name` now."""
        ...

    async def drain(self, name: str) -> None:
        """Return when nobody holds `name`."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget the adapter and free its slot. Raises AdapterError when it is not loaded or still held."""
        ...

    def loaded(self) -> list[str]:
        """Names of the loaded adapters, oldest first."""
        ...
