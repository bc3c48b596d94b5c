"""What can go wrong with an engine, in the server's own terms."""

from __future__ import annotations

from schemas.errors import AttuneError


class EngineSettingsError(AttuneError):
    """The engine's settings contradict what Attune needs, or the engine's own parser refuses them."""


class AdapterError(AttuneError):
    """An adapter cannot be loaded, used or unloaded."""
