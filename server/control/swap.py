"""Keeps what the engine holds, and what traffic is routed to, in step with the policy journal.

Routing follows the journal at once where the adapters are loaded; loading goes on beside it, one adapter at a time.
A version that cannot be served is refused, and what was served goes on serving. Requests end on the version they began
on: an adapter is unloaded only when nobody holds it. The version that a rollback would go back to is kept loaded.
Knows no HTTP and no log; all methods are called on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from exchange.journal import PolicyJournal
from schemas.base import now_ms, version_name
from schemas.errors import AttuneError, NotFound, Unavailable
from schemas.lifecycle import PolicyState
from server.control.plan import Key, routes, wanted
from server.control.reports import ReplicaReports
from server.control.staging import AdapterStage, Staged
from server.engine.port import Engine
from server.metrics import ServerMetrics
from server.request.routing import RoutingTable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """Why a version is not served here, and when it is worth trying again (monotonic seconds; None: never)."""

    why: str
    retry_at: float | None


@dataclass(frozen=True)
class SwapTimes:
    """`retry_s` until a version that could not be fetched is tried again; `report_s` between reports of no news."""

    retry_s: float
    report_s: float


class Swapper:
    """Routes and loads for the policies of one replica.

    Args:
        slots: adapters that the engine holds at most.
        reports: is told what this replica serves, when it changed and now and then.
    """

    def __init__(
        self,
        engine: Engine,
        journal: PolicyJournal,
        stage: AdapterStage,
        metrics: ServerMetrics,
        *,
        policies: Sequence[str],
        slots: int,
        times: SwapTimes,
        reports: ReplicaReports,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._stage = stage
        self._metrics = metrics
        self._policies = tuple(policies)
        self._slots = slots
        self._times = times
        self._reports = reports
        self._ready: dict[Key, Staged] = {}
        self._draining: dict[Key, Staged] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._refused: dict[Key, Refusal] = {}
        self._tables: dict[str, RoutingTable] = {}
        self._settled: set[str] = set()
        self._moving = asyncio.Lock()
        """One adapter comes or goes at a time: one that goes takes its local files with it."""
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # What others ask

    def table(self, policy: str) -> RoutingTable:
        """How to route a policy now. Raises NotFound where this replica does not serve it."""
        if policy not in self._tables:
            raise NotFound(f"the policy {policy} is not served here", field="model")
        return self._tables[policy]

    def refused(self, policy: str) -> dict[int, str]:
        """Versions that should be served here and cannot be, with the reason."""
        return {key[1]: refusal.why for key, refusal in self._refused.items() if key[0] == policy}

    def follows(self, policy: str) -> bool:
        """Whether traffic is routed as the journal says, as far as it has been read."""
        return self._follows(self._journal.state(policy))

    @property
    def settled(self) -> bool:
        """Whether every policy has been routed as the journal said at least once since the start, or as well as can be
        while the journal cannot be read."""
        return self._settled.issuperset(self._policies)

    @property
    def alive(self) -> bool:
        """Whether the loader runs; without it no version would ever come or go."""
        return self._task is not None and not self._task.done()

    async def wait_until_followed(self, policy: str, timeout_s: float) -> bool:
        """Wait until `follows(policy)`, or until it is clear that a version is refused. Returns `follows`."""
        deadline = time.monotonic() + timeout_s
        while not self.follows(policy):
            state = self._journal.state(policy)
            left = deadline - time.monotonic()
            if left <= 0 or any((policy, number) in self._refused for number in (state.stable, state.canary or 0)):
                return False
            try:
                async with asyncio.timeout(left):
                    await self._published.wait()
            except TimeoutError:
                return False
        return True

    # What drives it

    def start(self) -> None:
        """Route what can be routed, and begin to load."""
        self.changed()
        self._task = asyncio.create_task(self._run(), name="attune-swap")

    async def close(self) -> None:
        """Stop loading and unloading. Routes stay as they are."""
        tasks = [task for task in (self._task, *self._leaving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self) -> None:
        """The journal has news: route accordingly at once, and load what is missing."""
        for policy in self._policies:
            self._route(policy)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            states = [self._journal.state(policy) for policy in self._policies]
            plan = wanted(states, self._slots, self._routed())
            for key in [key for key in self._refused if key not in plan]:
                del self._refused[key]
                self._route(key[0])
            self._dismiss(plan)
            missing = next((key for key in plan if key not in self._ready and not self._blocked(key)), None)
            if missing is None:
                if not self._refused:
                    async with self._moving:
                        await self._stage.sweep([*self._ready.values(), *self._draining.values()])
                for state in states:
                    self._reports.tell(state, self._tables[state.policy], self.refused(state.policy))
                await self._rest()
            elif missing in self._draining:
                self._ready[missing] = self._draining.pop(missing)  # nobody unloads what is not in _draining
                self._route(missing[0])
            elif len(self._engine.loaded()) < self._slots:
                await self._bring(missing)
            elif self._leaving:
                await self._rest()  # woken when one has left
            else:
                why = f"all {self._slots} adapter slots are taken by {', '.join(self._engine.loaded())}"
                self._refuse(missing, f"{why}. Raise engine.max_loras.", retry=True)

    async def _rest(self) -> None:
        """Until there is news, or something is worth another try."""
        now = time.monotonic()
        dues = [refusal.retry_at - now for refusal in self._refused.values() if refusal.retry_at is not None]
        try:
            # Not `wait_for`: where the wait ends as it is cancelled, that one loses the cancellation (Python 3.11).
            async with asyncio.timeout(max(0.0, min([*dues, self._times.report_s]))):
                await self._wake.wait()
        except TimeoutError:
            self._reports.forget()

    def _blocked(self, key: Key) -> bool:
        refusal = self._refused.get(key)
        return refusal is not None and (refusal.retry_at is None or time.monotonic() < refusal.retry_at)

    # Routing

    def _follows(self, state: PolicyState) -> bool:
        table = self._tables.get(state.policy)
        return table is not None and (table.stable, table.canary, table.canary_share) == (
            state.stable,
            state.canary,
            state.canary_share,
        )

    def _routed(self) -> list[Key]:
        tables = self._tables.values()
        return [(table.policy, number) for table in tables for number in (table.stable, table.canary) if number]

    def _route(self, policy: str) -> None:
        state, before = self._journal.state(policy), self._tables.get(policy)
        loaded: dict[int, str | None] = {0: None}
        loaded |= {number: staged.digest for (name, number), staged in self._ready.items() if name == policy}
        stable, canary, share = routes(state, before, loaded, self.refused(policy))
        table = RoutingTable(policy=policy, stable=stable, canary=canary, canary_share=share, loaded=loaded)
        self._metrics.serving(
            policy,
            stable=stable,
            canary=canary,
            share=share,
            generation=state.generation,
            loaded=len(loaded) - 1,
            refused=len(self.refused(policy)),
        )
        self._tables[policy] = table
        if before is not None:
            self._measure(state, before, table)
        # What the journal said last may not be servable by now: while it cannot be read, what there is serves.
        given_up = self._journal.presuming and state.stable in self.refused(policy)
        if self._follows(state) or given_up:
            self._settled.add(policy)
        published, self._published = self._published, asyncio.Event()
        published.set()

    def _measure(self, state: PolicyState, before: RoutingTable, after: RoutingTable) -> None:
        for arm, old, new in (("stable", before.stable, after.stable), ("canary", before.canary, after.canary)):
            if new is None or new == old:
                continue
            # A restarted replica catches up with old news: only what came while it followed says how quick a swap is.
            seconds = (now_ms() - state.versions[new].since) / 1000
            log.info("%s is now %s (%.3f s after the journal said so)", version_name(state.policy, new), arm, seconds)
            if state.policy in self._settled:
                self._metrics.swapped(state.policy, arm, seconds)

    # Loading

    async def _bring(self, key: Key) -> None:
        policy, number = key
        version = self._journal.state(policy).versions[number]
        name, began = version_name(policy, number), time.monotonic()
        try:
            async with self._moving:
                staged = await self._stage.bring(policy, version, name)
        except (NotFound, Unavailable) as error:
            self._metrics.adapter_load(policy, "unavailable", time.monotonic() - began)
            self._refuse(key, str(error), retry=True)
        except AttuneError as error:
            self._metrics.adapter_load(policy, "refused", time.monotonic() - began)
            self._refuse(key, str(error), retry=False)
        else:
            self._metrics.adapter_load(policy, "loaded", time.monotonic() - began)
            self._ready[key] = staged
            self._refused.pop(key, None)
            self._route(policy)

    def _refuse(self, key: Key, why: str, *, retry: bool) -> None:
        known = self._refused.get(key)
        if known is None or known.why != why:
            log.error("%s cannot be served here: %s", version_name(*key), why)
        self._refused[key] = Refusal(why, time.monotonic() + self._times.retry_s if retry else None)
        self._route(key[0])

    def _dismiss(self, plan: Sequence[Key]) -> None:
        """Take what is not wanted out of the routes, and unload it once nobody holds it."""
        surplus = [key for key in self._ready if key not in plan]
        for key in surplus:
            self._draining[key] = self._ready.pop(key)
            task = asyncio.create_task(self._leave(key, self._draining[key]), name=f"attune-drain-{version_name(*key)}")
            self._leaving.add(task)
            task.add_done_callback(self._left)
        for policy in {key[0] for key in surplus}:
            self._route(policy)

    async def _leave(self, key: Key, staged: Staged) -> None:
        while True:
            await self._engine.drain(staged.name)
            async with self._moving:
                if self._draining.get(key) is not staged:  # it was wanted again meanwhile
                    return
                if self._engine.in_flight(staged.name):  # wanted, and dismissed again
                    continue
                del self._draining[key]
                others = [*self._ready.values(), *self._draining.values()]
                await self._stage.let_go(staged, keep_files=any(other.path == staged.path for other in others))
                log.info("%s was unloaded", staged.name)
                return

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed; its slot stays taken: %s", task.get_name(), error)
