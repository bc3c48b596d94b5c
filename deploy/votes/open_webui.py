"""Open WebUI's feedback export (Admin Panel > Evaluations > Feedbacks > Export, as JSON).

Looked at: `backend/open_webui/routers/evaluations.py` at commit 4151145 and in later copies, `models/feedbacks.py`,
`Feedbacks.svelte` at 02e5a5f, the feedback handler of `ResponseMessage.svelte`, and readers of exports up to 0.9.6. It
is an array of the table's rows: `type`, `user_id`, `data.rating` (1, -1; 0 is a draw), `meta.message_id`,
`meta.chat_id`, seconds in `created_at` and `updated_at`, and in `snapshot.chat` the row of the chat as it was, whose
messages form a tree in `chat.history.messages`. A rating speaks of one message; what came before it is the way to the
root. Exports as CSV hold no messages.
"""

from __future__ import annotations

import re
from typing import Any

from deploy.votes.jsonl import name_in
from deploy.votes.vote import MAX_MESSAGES, Vote, chat_of, text_of
from schemas.errors import InvalidInput
from schemas.imported import ChatMessage

SOURCE = "open-webui"
_RATINGS = {"1": True, "-1": False}
_THOUGHTS = re.compile(r'<details type="(?:reasoning|code_interpreter)".*?</details>\n*', re.DOTALL)
"""How Open WebUI stores what a model thought, which it never shows to a model again."""


def is_feedback(item: Any) -> bool:
    """Whether an item is a row of this export."""
    return isinstance(item, dict) and {"user_id", "type", "data", "meta"} <= item.keys()


def vote_of(row: Any) -> Vote | str:
    """The vote in a row, or in one word why there is none: not_a_rating, neutral, no_snapshot, no_text.

    Raises:
        InvalidInput: the row has not this shape.
    """
    if not is_feedback(row):
        raise InvalidInput("no row of a feedback export of Open WebUI", field="item")
    data, meta = _table(row, "data"), _table(row, "meta")
    if row["type"] != "rating":
        return "not_a_rating"
    liked = _RATINGS.get(str(data.get("rating")))
    if liked is None:
        return "neutral"
    chat = _table(_table(_table(row, "snapshot"), "chat"), "chat")
    messages = _table(_table(chat, "history"), "messages")
    path = _path(messages, meta.get("message_id"))
    if not path:
        return "no_snapshot"
    try:
        *before, answer = (_message(item) for item in path)
    except InvalidInput:
        return "no_text"
    system = _table(chat, "params").get("system")
    if isinstance(system, str) and system.strip():
        before.insert(0, ChatMessage(role="system", content=system))
    if answer.role != "assistant" or not answer.content.strip() or not before:
        return "no_text"
    at = row.get("updated_at") or row.get("created_at")
    return Vote(
        messages=tuple(before),
        answers=(answer.content.strip(),),
        liked=liked,
        user=name_in(row, "user_id"),
        session=name_in(meta, "chat_id"),
        at=at * 1000 if isinstance(at, int) and 0 < at < 10**11 else None,
        source=SOURCE,
    )


def _table(row: dict[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _path(messages: dict[str, Any], last: Any) -> list[dict[str, Any]]:
    """The messages from the root to `last`; none where it is not there, or a parent is missing."""
    path: list[dict[str, Any]] = []
    at = last
    while at is not None:
        message = messages.get(at) if isinstance(at, str) else None
        if not isinstance(message, dict) or len(path) > MAX_MESSAGES:  # also where parents go round in a circle
            return []
        path.insert(0, message)
        at = message.get("parentId")
    return path


def _message(item: dict[str, Any]) -> ChatMessage:
    content = _THOUGHTS.sub("", text_of(item.get("content"), "content"))
    return chat_of([{"role": item.get("role"), "content": content}], "content")[0]
