"""System programs that Attune's tests and local broker need: found, or named with what to install.

`python -m deploy.needs java maven` exits with 1 and the remedy where one is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from schemas.errors import ConfigError

MIN_JAVA = 17
_PACKAGES = {
    "java": "openjdk-17-jre-headless",
    "maven": "maven",
    "kcat": "kcat",
    "chromium": "chromium",
    "prometheus": "prometheus",
}
_COMMANDS = {"java": "java", "maven": "mvn", "kcat": "kcat", "chromium": "chromium", "prometheus": "prometheus"}


def require(*needs: str) -> None:
    """Check that every named program is there.

    Raises:
        ConfigError: one is missing or too old; the message says what to install.
    """
    for need in needs:
        remedy = f"On Debian: apt-get install {_PACKAGES[need]}"
        if shutil.which(_COMMANDS[need]) is None:
            raise ConfigError(f"{need} is needed and was not found", remedy=remedy)
        if need == "java" and (major := _java_major()) < MIN_JAVA:
            raise ConfigError(f"Java {MIN_JAVA} or newer is needed, and this is {major}", remedy=remedy)


def _java_major() -> int:
    """The major version of the `java` on the path; 0 where it does not say."""
    shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)  # noqa: S607
    match = re.search(r'version "(\d+)', shown.stderr)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    try:
        require(*sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"attune: {error}")
