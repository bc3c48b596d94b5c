"""Which versions of a policy a person had a part in, from the snapshots they were trained on.

Knows manifests and the two columns of a snapshot that name people (`group` who judged or was answered, `subject` whose
content it is); opens no content. A version also learnt from whoever its parent learnt from: it continues its weights.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from exchange.registry.port import Registry
from schemas.errors import IntegrityError, NotFound

_WHO = ("group", "subject")


@dataclass(frozen=True)
class Influence:
    """Versions of one policy, ascending; each is in one group at most."""

    policy: str
    direct: tuple[int, ...] = ()
    """Trained on a snapshot with rows of the person."""
    inherited: tuple[int, ...] = ()
    """Continued from such a version."""
    unknown: tuple[int, ...] = ()
    """Manifest or snapshot cannot be read any more, so nobody can say; nor of what continues from them."""

    @property
    def all(self) -> frozenset[int]:
        """Every version that did or may carry something of the person."""
        return frozenset((*self.direct, *self.inherited, *self.unknown))


def influence(registry: Registry, policy: str, subject: str, work: Path) -> Influence:
    """Look through the snapshots of all published versions of a policy. Blocks for as long as reading them takes.

    Args:
        subject: pseudonym, or the conversation that stands for the person.
        work: a folder for temporary copies of snapshots; nothing is left there.

    Raises:
        Unavailable: the registry cannot be reached.
    """
    named: dict[str, bool | None] = {}
    groups: dict[str, list[int]] = {"direct": [], "inherited": [], "unknown": []}
    group_of: dict[int, str] = {}
    for version in registry.versions(policy):  # ascending, so a parent is judged before what continues from it
        there, parent = None, None
        try:
            manifest = registry.adapter(policy, version)
        except (NotFound, IntegrityError):
            pass  # a damaged manifest must not hide the other versions
        else:
            if manifest.snapshot not in named:
                named[manifest.snapshot] = _names(registry, manifest.snapshot, subject, work)
            there, parent = named[manifest.snapshot], group_of.get(manifest.parent)
        if there:
            group = "direct"
        elif parent in ("direct", "inherited"):
            group = "inherited"
        elif there is None or parent == "unknown":
            group = "unknown"
        else:
            continue
        group_of[version] = group
        groups[group].append(version)
    return Influence(policy, **{name: tuple(versions) for name, versions in groups.items()})


def _names(registry: Registry, digest: str, subject: str, work: Path) -> bool | None:
    """Whether a snapshot has rows of a person; None where it cannot be read."""
    import pyarrow.parquet as pq  # only who asks this pays for loading it

    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        try:
            files = registry.fetch_artifact("snapshots", digest, Path(folder))
        except (NotFound, IntegrityError):
            return None
        for path in sorted(files.glob("*.parquet")):
            columns = [name for name in _WHO if name in pq.read_schema(path).names]
            for column in pq.read_table(path, columns=columns).columns if columns else ():
                if subject in column.unique().to_pylist():
                    return True
    return False
