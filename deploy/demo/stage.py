"""What stands ready when a performance begins: the folder, running processes, the base, and who the users are.

Knows how users and the exam ask the server; starts nothing by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.evaluate import Examinee
from deploy.demo.population import Traffic
from deploy.demo.preferences import Preferences
from deploy.demo.processes import Child
from deploy.demo.workplace import FIRST_WORDS, MAX_ANSWER_TOKENS, POLICY, Workplace


@dataclass(frozen=True)
class Stage:
    """One run's stage.

    Attributes:
        tiny: the base is the demo's own small model, which learnt the domain.
        shuffled: the users' verdicts are dealt at random.
        start_once: runs a second trainer, of the given configuration, for one turn.
    """

    place: Workplace
    servers: tuple[Child, ...]
    trainer: Child
    model: str
    tiny: bool
    seed: int
    preferences: Preferences
    shuffled: bool
    start_once: Callable[[Path], Child]

    def check_servers(self) -> None:
        """Raises Unavailable where a server has ended."""
        for server in self.servers:
            server.check()

    def examinee(self) -> Examinee:
        """How the exam asks and weighs."""
        return Examinee(
            self.place.url,
            self.place.evaluation,
            max_tokens=MAX_ANSWER_TOKENS,
            temperature=1.0,
            weights=self.preferences.gold,
            domain_language=self.tiny,
            with_article=not self.tiny,
        )

    def traffic(self) -> Traffic:
        """How the users ask and judge."""
        return Traffic(
            self.place.urls,
            self.place.users,
            preferences=self.preferences,
            shuffled=self.shuffled,
            model=POLICY,
            max_tokens=MAX_ANSWER_TOKENS,
            seed=self.seed,
            eager_until=FIRST_WORDS,
            domain_language=self.tiny,
            with_article=not self.tiny,
        )
