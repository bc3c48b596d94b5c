"""The generated parts of docs/kafka.md: the table of topics, the least permissions, and the commands that give them.

A part lies between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections import defaultdict

from schemas.access import ACCESS, TRAINER_GROUPS, Role
from schemas.topics import TOPICS

_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PRINCIPALS: dict[Role, str] = {"server": "attune-server", "trainer": "attune-trainer"}
"""The names that the docs give to both processes."""


def kafka_page(page: str) -> str:
    """The page with its generated parts as they should be. Raises KeyError where it names a part that is not."""
    parts = {"topics": _topics(), "permissions": _permissions(), "acl-commands": _commands()}
    return _PART.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", page)


def _topics() -> str:
    rows = ["| topic | partitions | kept | compacted |", "| --- | --- | --- | --- |"]
    for topic in TOPICS.values():
        kept = "for ever" if topic.retention_days is None else f"{topic.retention_days} days"
        kept = "the last record of each key" if topic.compacted else kept
        rows.append(f"| `{topic.name}` | {topic.partitions} | {kept} | {'yes' if topic.compacted else 'no'} |")
    return "\n".join(rows)


def _permissions() -> str:
    rows = ["| topic | server | trainer |", "| --- | --- | --- |"]
    for name in TOPICS:
        rows.append(f"| `{name}` | {', '.join(ACCESS['server'][name])} | {', '.join(ACCESS['trainer'][name])} |")
    rows.append(f"| groups `{TRAINER_GROUPS}*` | | Read |")
    return "\n".join(rows)


def _commands() -> str:
    lines = [line for role in ACCESS for line in acl_commands(role)]
    return "\n".join(["```", *lines, "```"])


def acl_commands(role: Role) -> list[str]:
    """The commands of Kafka's own tool that give a role what it needs, one for each set of operations."""
    groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for topic, operations in ACCESS[role].items():
        groups[operations].append(topic)
    start = (
        f"kafka-acls.sh --bootstrap-server HOST:PORT --command-config admin.properties --add --force \\\n  "
        f"--allow-principal User:{PRINCIPALS[role]}"
    )
    commands = [
        f"{start} {' '.join(f'--operation {one}' for one in operations)} \\\n  "
        f"{' '.join(f'--topic {topic}' for topic in topics)}"
        for operations, topics in groups.items()
    ]
    if role == "trainer":
        commands.append(f"{start} --operation Read \\\n  --group {TRAINER_GROUPS} --resource-pattern-type prefixed")
    return commands
