"""`attune demo`: the whole loop from nothing, with made-up users, and a report of what came of it.

Starts server and trainer as an operator would, by their commands and configuration files, lets the population talk
until the loop has turned often enough, and then measures. Every process it starts ends with it.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from deploy.demo import processes
from deploy.demo.base import BaseOptions, make_base
from deploy.demo.loop import Loop
from deploy.demo.preferences import Preferences, load, shipped
from deploy.demo.printed import show
from deploy.demo.processes import Child
from deploy.demo.report import Report
from deploy.demo.screen import Screen
from deploy.demo.stage import Stage
from deploy.demo.workplace import Workplace, prepare
from schemas.errors import ConfigError, Unavailable

HOME = Path(".attune")
START_PATIENCE_S = 240.0


@dataclass(frozen=True)
class DemoOptions:
    """What `attune demo` takes; see its help."""

    model: str | None = None
    turns: int = 3
    log: str = "sqlite"
    replicas: int = 1
    keep: bool = False
    report: Path | None = None
    seed: int = 0
    work: Path | None = None
    taste: str | None = None
    users: Path | None = None
    shuffle: bool = False
    sabotage: bool = False

    def preferences(self) -> Preferences:
        """Who the users are.

        Raises:
            ConfigError: both `taste` and `users` say so, or what they name is not there or not in order.
        """
        if self.users is None:
            return shipped(self.taste or "mixed")
        if self.taste is not None:
            raise ConfigError("--taste and --users both say who talks", field="users", remedy="Give one of them.")
        return load(self.users)


def run_demo(options: DemoOptions) -> int:
    """Run the demo; 0 where every promise of the report held, else 1.

    Raises:
        ConfigError: an option is not possible.
        Unavailable: a child process died or did not come up; the message ends with its last words.
    """
    if options.log not in ("sqlite", "kafka"):
        raise ConfigError(f"there is no log {options.log!r}", field="log", remedy="Write sqlite or kafka.")
    if options.shuffle and options.sabotage:
        raise ConfigError(
            "shuffled verdicts cannot be flipped", field="sabotage", remedy="Give --shuffle or --sabotage, not both."
        )
    preferences = options.preferences()
    screen = Screen(Console())
    folder = (options.work or HOME / f"demo-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", field="work", remedy="Name another folder.")
    model = options.model or str(_tiny_base(screen))
    with processes.ended_in_order(), ExitStack() as stack:
        log_url = _open_log(options, folder, stack, screen)
        tiny = options.model is None
        place = prepare(folder, model=model, tiny=tiny, log_url=log_url, seed=options.seed, replicas=options.replicas)
        screen.say(f"server and trainer start as processes of their own; logs in {place.logs}")
        with screen.live():
            servers = []
            for url, config in zip(place.urls, place.server_configs, strict=True):  # one after the other: two cores
                screen.working_on = f"the engine of {config.stem} starts"
                servers.append(stack.enter_context(_start(config.stem, "serve", config, place)))
                _wait_until_ready(url, servers[-1])
                screen.say(f"{config.stem} answers at {url}")
            screen.working_on = ""
            # Only now: on two cores, two programs that load at once take twice as long.
            trainer = stack.enter_context(_start("trainer", "train", place.trainer_config, place))
            stage = Stage(
                place,
                tuple(servers),
                trainer,
                model=model,
                tiny=tiny,
                seed=options.seed,
                preferences=preferences,
                shuffled=options.shuffle,
                start_once=lambda config: _start("flipped trainer", "train", config, place, "--once"),
            )
            shuffled = ", their verdicts dealt at random" if options.shuffle else ""
            screen.say(f"the users come: taste {preferences.name}{shuffled}")
            report = asyncio.run(Loop(stage, screen).run(options.turns, sabotage=options.sabotage))
        _finish(report, options, folder, screen)
        if options.keep:
            _keep_serving(place, stage, screen)
    return 0 if report.kept else 1


def _tiny_base(screen: Screen) -> Path:
    """The demo's own base, made if the cache lacks it."""
    import torch  # heavy, and not needed with a model from elsewhere

    torch.set_num_threads(os.cpu_count() or 1)  # nothing else of the demo runs yet
    began = time.monotonic()

    def progress(stage: str, done: int, total: int, metrics: object) -> None:
        screen.working_on = f"making the base: {stage} step {done} of {total}"
        if done * 5 // total > (done - 1) * 5 // total:  # for those who see no live display
            screen.say(screen.working_on)

    screen.say("base: 1.7 M parameters, from nothing, by the SFT stage on demonstrations of mixed quality")
    with screen.live():
        model = make_base(HOME.absolute() / "bases", BaseOptions(), progress)
    screen.working_on = ""
    screen.say(f"base ready after {time.monotonic() - began:.0f} s: {model}")
    return model


def _open_log(options: DemoOptions, folder: Path, stack: ExitStack, screen: Screen) -> str:
    if options.log == "sqlite":
        return f"sqlite:///{folder / 'log.db'}"
    from deploy.brokers.broker import start_broker

    broker = stack.enter_context(start_broker(folder / "kafka"))
    screen.say(f"a real Kafka broker runs at {broker.bootstrap}")
    return f"kafka://{broker.bootstrap}"


def _start(name: str, command: str, config: Path, place: Workplace, *flags: str) -> Child:
    environment = {
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        # One engine process instead of two: with a single compute thread there is none for the second to bind, and
        # the two would spin on two cores while they wait for each other.
        "VLLM_ENABLE_V1_MULTIPROCESSING": os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
    }
    return processes.start(
        name,
        ["-m", "deploy.cli", command, "--config", str(config), *flags],
        place.logs / f"{name.replace(' ', '-')}.log",
        environment,
    )


def _wait_until_ready(url: str, server: Child) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    with httpx.Client(base_url=url, timeout=5.0) as http:
        while time.monotonic() < deadline:
            server.check()
            try:
                if http.get("/readyz").is_success:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.5)
    raise Unavailable(f"the server was not ready after {START_PATIENCE_S:.0f} s:\n{server.tail()}")


def _finish(report: Report, options: DemoOptions, folder: Path, screen: Screen) -> None:
    written = [folder / "report.json", *([options.report] if options.report else [])]
    for path in written:
        report.write(path)
    show(report, screen.console)


def _keep_serving(place: Workplace, stage: Stage, screen: Screen) -> None:
    """Leave it all running until the person presses Ctrl-C."""
    screen.console.print(
        f"Serving at [b]{place.url}/v1[/b], model [b]support[/b]. Ctrl-C ends it. To talk and press thumbs yourself:\n"
        f"  attune chat --url {place.url} --api-key {place.users}",
        highlight=False,
        soft_wrap=True,
    )
    with _until_interrupted():
        while True:
            stage.check_servers()
            time.sleep(1.0)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        return
