"""Which code made an adapter: the package's version, and the commit where it runs from a checkout."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def code_version() -> str:
    """Such as `0.1.0+g1a2b3c4d5e6f`; without the commit where there is no checkout."""
    try:
        package = metadata.version("attune")
    except metadata.PackageNotFoundError:
        package = "unknown"
    commit = checkout_commit(Path(__file__).resolve().parents[2])
    return f"{package}+g{commit[:12]}" if commit else package


def checkout_commit(root: Path) -> str | None:
    """The commit that the git checkout in `root` is at, read from its files; None where there is none."""
    git = root / ".git"
    try:
        if git.is_file():  # a linked work tree names its folder, which names the common one
            git = (root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        shared = git / "commondir"
        common = (git / shared.read_text(encoding="utf-8").strip()).resolve() if shared.is_file() else git
        for folder in (git, common):
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="ascii").strip()
        for line in (common / "packed-refs").read_text(encoding="ascii").splitlines():
            if line.endswith(f" {name}"):
                return line.split()[0]
    except (OSError, UnicodeDecodeError):
        return None
    return None
