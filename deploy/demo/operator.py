"""The demo's operator: looks at the policy, takes versions back, and times how soon a version speaks.

Uses the admin API and ordinary chat requests; knows no process and no file.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx
from openai import APIError, AsyncOpenAI

from deploy.demo.domain import Question
from schemas.base import parse_version_name
from schemas.errors import Unavailable

POLL_S = 0.02
PATIENCE_S = 60.0
SPOKEN_FOR = ("stable", "retired", "rejected", "rolled_back")


@dataclass(frozen=True)
class VersionView:
    """One version as the server shows it. `kl` is to the frozen base, in nats per sequence."""

    name: str
    stage: str
    kl: float
    reason: str = ""

    @property
    def number(self) -> int:
        return parse_version_name(self.name)[1]

    @property
    def decided(self) -> bool:
        """Whether its turn is over: it was promoted, or will not be."""
        return self.number > 0 and self.stage in SPOKEN_FOR

    @property
    def servable(self) -> bool:
        return self.stage not in ("reserved", "rejected")


@dataclass(frozen=True)
class PolicyView:
    """A policy as the server shows it. `serving` names the versions that can be asked for now."""

    stable: str
    canary: str | None
    versions: tuple[VersionView, ...]
    serving: tuple[str, ...]

    def version(self, name: str) -> VersionView:
        """The version of that name, which must exist."""
        return next(version for version in self.versions if version.name == name)

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """From the body of GET /v1/admin/policies/{policy}."""
        versions = tuple(
            VersionView(
                name=version["version"],
                stage=version["stage"],
                kl=float(version.get("kl_nats_per_sequence") or 0.0),
                reason=version.get("reason") or "",
            )
            for version in body["versions"]
        )
        return cls(stable=body["stable"], canary=body["canary"], versions=versions, serving=tuple(body["serving"]))


@dataclass(frozen=True)
class Operator:
    """Somebody with the admin key, who talks to one server and listens to all.

    `askers` are chat clients, one for each replica, whose requests leave no trace in the log; `check_alive` raises
    where a server has ended.
    """

    http: httpx.AsyncClient
    askers: tuple[AsyncOpenAI, ...]
    policy: str
    probe: Question
    check_alive: Callable[[], None]
    with_article: bool = False

    async def look(self) -> PolicyView:
        """The state of the policy now. Raises httpx.HTTPError where the server gives none."""
        response = await self.http.get(f"/v1/admin/policies/{self.policy}")
        response.raise_for_status()
        return PolicyView.parse(response.json())

    async def published_at(self, version: str) -> float | None:
        """When the journal says that `version` was published, in seconds since the epoch."""
        response = await self.http.get(f"/v1/admin/policies/{self.policy}/history")
        response.raise_for_status()
        for entry in response.json()["entries"]:
            if entry["entry"] == "candidate_published" and entry["version"] == version:
                return float(entry["at"]) / 1000
        return None

    async def roll_back(self, reason: str, version: str | None = None) -> None:
        """Take the stable version back to the one before, or `version`, the canary, from the traffic."""
        body = {"reason": reason} if version is None else {"reason": reason, "version": version}
        response = await self.http.post(f"/v1/admin/policies/{self.policy}/rollback", json=body)
        response.raise_for_status()

    async def promote(self, version: str, reason: str) -> None:
        """Make `version` stable."""
        body = {"version": version, "reason": reason}
        response = await self.http.post(f"/v1/admin/policies/{self.policy}/promote", json=body)
        response.raise_for_status()

    async def first_token(self, model: str, version: str) -> float:
        """The time, in seconds since the epoch, by which `model` had streamed a token spoken by `version` everywhere.

        That is the slowest replica's first. Asks again at once while another version answers or `version` is not
        loaded yet.

        Raises:
            Unavailable: it did not speak within a minute, or the server has ended.
        """
        return max(await asyncio.gather(*(self._first_token(asker, model, version) for asker in self.askers)))

    async def _first_token(self, asker: AsyncOpenAI, model: str, version: str) -> float:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                at = await self._ask(asker, model, version)
            except APIError:
                at = None
            if at is not None:
                return at
            await asyncio.sleep(POLL_S)
        raise Unavailable(f"{version} did not answer as {model} within {PATIENCE_S:.0f} s")

    async def _ask(self, asker: AsyncOpenAI, model: str, version: str) -> float | None:
        messages: Any = self.probe.messages(with_article=self.with_article)
        stream = await asker.chat.completions.create(model=model, messages=messages, max_tokens=4, stream=True)
        async with stream:
            if stream.response.headers.get("attune-version") != version:
                return None
            async for chunk in stream:
                if any(choice.delta.content for choice in chunk.choices):
                    return time.time()
        return None
