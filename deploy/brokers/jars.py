"""Kafka itself: its jars, got with Maven once, and how a class of them is run. Knows no broker's configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from deploy.needs import require
from schemas.errors import Unavailable

KAFKA = "org.apache.kafka:kafka_2.13:4.1.0"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>attune</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
  </dependency></dependencies>
</project>
"""


def kafka_jars() -> Path:
    """The folder with Kafka's jars: `$ATTUNE_CACHE/kafka/VERSION` or `~/.cache/attune/kafka/VERSION`, filled by Maven
    the first time (43 MB).

    Raises:
        ConfigError: Java 17 or Maven is missing; the message says what to install.
        Unavailable: Maven cannot get them; the message ends with its last words.
    """
    group, artifact, version = KAFKA.split(":")
    cache = Path(os.environ.get("ATTUNE_CACHE") or Path.home() / ".cache" / "attune") / "kafka"
    jars = cache / version
    if jars.is_dir():
        require("java")
        return jars
    require("java", "maven")
    staging = cache / f".staging-{os.getpid()}"
    staging.mkdir(parents=True, exist_ok=True)
    try:
        pom = staging / "pom.xml"
        pom.write_text(_POM.format(group=group, artifact=artifact, version=version))
        target = f"-DoutputDirectory={(staging / 'jars').absolute()}"
        run(
            [str(shutil.which("mvn")), "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", target],
            f"{KAFKA} could not be downloaded with Maven",
        )
        try:
            (staging / "jars").rename(jars)
        except OSError:
            # Another process was first: its folder is as complete as ours, since only whole ones are renamed there.
            if not jars.is_dir():
                raise
    finally:
        shutil.rmtree(staging)
    return jars


def java(jars: Path, heap_mb: int) -> list[str]:
    """The start of a command that runs a class of Kafka's; the class and its arguments follow."""
    # The light collector and compiler: half the processor time until it is up, and no broker here needs more.
    light = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [str(shutil.which("java")), f"-Xmx{heap_mb}m", *light, "-cp", f"{jars}/*"]


def run(command: list[str], failure: str) -> str:
    """What the command printed. Raises Unavailable with `failure` and the command's last words where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise Unavailable(f"{failure}: {last_words(done.stdout)}")
    return done.stdout


def last_words(text: str) -> str:
    """The last lines of a program's output in one, without colours."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return " | ".join(lines[-5:]) or "it said nothing"
