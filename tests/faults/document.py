"""docs/faults.md: what the fault suite found when it last ran. Pure text; rows of scenes that did not run stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.faults.outcome import HEADINGS

INTRODUCTION = """\
# Faults

What `make faults` did to real processes, and what it found afterwards, counted event by event. Clients chat and rate
without pause, remember every acknowledgement, and send a word that was not acknowledged again under the same
idempotency key. Then the log and the trainer's ledger are read from the beginning.

- **words acknowledged**: feedback that a client was told is kept. **found**: those on the log and in the ledger.
- **missing**: acknowledged and not found. **doubled**: answers of which the ledger counts more than one word, though
  their client said one. Both must be 0; a record may come twice on the log where the note says so, and counts once.
- **chats**, **failed**: answered whole, and failed while the server was meant to be up. A chat fails that takes longer
  than 25 seconds: nothing that happens to the log may hold it up. **slowest chat**: from request to last word, while
  everything shares the machine's two cores.
- **peak memory**: the server's largest resident set.
- **answers on the log** (in the note): a server that is killed loses the completions of its last moments, and with a
  full spool those that find no room are dropped and counted in `attune_events_dropped`; feedback is refused instead.
  Everywhere else all of them must be there.

`make faults ARGS="--only broker"` runs one group (crash, broker) or the scenes with these words in their name, and
renews their rows; `ARGS=--quick` runs shorter forms and writes nothing here. The engine has no model and its answers
are canned, except where vLLM is named: what is tested is everything around it. `make test` runs one representative of
each kind.

"""


def updated(text: str, scenes: Sequence[str], new: Mapping[str, Sequence[str]]) -> str:
    """The page with new rows.

    Args:
        text: the page as it is; may be empty.
        scenes: all scenes in their order; rows of others are dropped.
        new: the cells of the scenes that ran, without the name.
    """
    rows = {cells[0]: cells[1:] for line in text.splitlines() if len(cells := _cells(line)) == len(HEADINGS)}
    rows.update({name: list(cells) for name, cells in new.items()})
    lines = [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line([name, *rows[name]]) for name in scenes if name in rows]
    return INTRODUCTION + "\n".join(lines) + "\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
