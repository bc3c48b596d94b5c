"""Handles that prove nothing: refused with 4xx and a message that names the field, and nothing is written."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from schemas.base import now_ms
from schemas.feedback import AnswerTarget
from schemas.handles import HandleClaims, Keyring, issue_handle, verify_handle
from tests.unit.server.request.conftest import World

THUMB: dict[str, Any] = {"kind": "thumbs", "value": "up"}
PATHS: tuple[tuple[str, dict[str, Any]], ...] = (("/v1/feedback", THUMB), ("/v1/displayed", {}))


async def handle_of(world: World, **chat: Any) -> str:
    return str((await world.chat(**chat)).json()["attune"]["handles"][0])


def claims_of(world: World, handle: str) -> HandleClaims:
    return verify_handle(handle, world.secrets.keyring, now=0)


def signed(world: World, claims: HandleClaims, key: bytes | None = None, key_id: str | None = None) -> str:
    """A handle by a forger who may know a key id, and does not know its key."""
    ring = world.secrets.keyring
    active = key_id or ring.active
    return issue_handle(claims, Keyring(active=active, keys={active: key or ring.keys[ring.active]}))


async def refused(world: World, handle: Any, *codes: str, key: str | None = None) -> None:
    """Every path that takes a handle says no, names the field, and writes nothing."""
    before = len(world.feedback())
    for path, more in PATHS:
        answer = await world.post(path, {"handle": handle, **more}, key=key)
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert error["param"] == "handle", error
        assert error["code"] in codes, error
        assert (error["type"] == "permission_error") == (answer.status_code == 403), error
        assert error["message"]
    assert len(world.feedback()) == before


async def test_a_handle_altered_in_any_place_is_refused(world: World) -> None:
    handle = await handle_of(world)
    header = len(handle) - len(handle.rpartition(".")[2])
    places = {
        **dict.fromkeys((0, 1, 2, 3), "handle_malformed"),  # ah1.
        **dict.fromkeys((4, header - 2), "handle_unknown_key"),  # the key's id
        header - 1: "handle_malformed",  # the second dot
        **dict.fromkeys((header, header + 5, header + 15), "handle_forged"),  # nonce
        **dict.fromkeys((header + 16, len(handle) // 2, len(handle) - 24), "handle_forged"),  # claims
        **dict.fromkeys((len(handle) - 22, len(handle) - 2, len(handle) - 1), "handle_forged"),  # tag
    }
    for place, code in places.items():
        for other in {"A", "B", "0", "z"} - {handle[place]}:
            await refused(world, handle[:place] + other + handle[place + 1 :], code)
    for other in ".+/=\0é":
        await refused(world, handle[:-1] + other, "handle_forged", "handle_malformed")


async def test_every_single_bit_counts(world: World) -> None:
    handle = await handle_of(world)
    head, _, encoded = handle.rpartition(".")
    data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    for index in range(len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 1 << (index % 8)
        text = base64.urlsafe_b64encode(bytes(flipped)).decode().rstrip("=")
        with pytest.raises(Exception, match="altered or not made by this service"):
            verify_handle(f"{head}.{text}", world.secrets.keyring, now=0)


@pytest.mark.parametrize(
    ("handle", "code"),
    [
        ("", "invalid_input"),
        ("x" * 8_193, "invalid_input"),
        ("x" * 8_192, "handle_malformed"),
        ("ah1." + "x" * 8_000 + ".A", "handle_unknown_key"),
        (None, "invalid_input"),
        (7, "invalid_input"),
        (["ah1.k.AAAA"], "invalid_input"),
        ({"a": 1}, "invalid_input"),
        ("\0", "handle_malformed"),
        ("ah1.\0.\0", "handle_unknown_key"),
        ("ah1.ключ.AAAA", "handle_unknown_key"),
        ("ah1..", "handle_unknown_key"),
        ("ah2.k.AAAA", "handle_malformed"),
        ("AH1.k.AAAA", "handle_malformed"),
        ("...", "handle_malformed"),
        ("ah1.../../secrets.json", "handle_malformed"),
        ("ah1.k\r\nx-admin: 1.AAAA", "handle_unknown_key"),
    ],
)
async def test_what_is_no_handle_is_refused(world: World, handle: Any, code: str) -> None:
    await refused(world, handle, code)


@pytest.mark.parametrize(
    "tail", ["", "A", "AAAA", "A" * 16, "A" * 39, "=" * 8, "é" * 20, " " * 20, "\0" * 20, "+/" * 20]
)
async def test_a_known_key_id_proves_nothing(world: World, tail: str) -> None:
    await refused(world, f"ah1.{world.secrets.active_handle_key}.{tail}", "handle_forged")


async def test_spaces_and_padding_around_a_handle_are_not_forgiven(world: World) -> None:
    handle = await handle_of(world)
    for near in (f" {handle}", f"{handle} ", f"{handle}\n", f"{handle}=", f"{handle}==", handle.upper(), handle * 2):
        await refused(world, near, "handle_malformed", "handle_forged", "handle_unknown_key")


async def test_forged_expired_and_unknown_keys(world: World) -> None:
    claims = claims_of(world, await handle_of(world))
    await refused(world, signed(world, claims, key=b"x" * 32), "handle_forged")
    await refused(world, signed(world, claims, key_id="k9"), "handle_unknown_key")
    for late in (0, 1, now_ms() - 1):
        await refused(world, signed(world, claims.model_copy(update={"expires_at": late})), "handle_expired")


async def test_a_handle_is_of_one_tenant_and_one_policy(world: World) -> None:
    handle = await handle_of(world)
    await refused(world, handle, "handle_foreign", key="other")
    await refused(world, handle, "handle_foreign", key="sales")  # a key for another policy of the same tenant
    assert (await world.post("/v1/feedback", {"handle": handle, **THUMB})).status_code == 200


async def test_a_handle_cannot_be_made_to_speak_of_another_answer(world: World) -> None:
    """Neither by fields beside it, nor by parts of another handle, nor by a signature of its own."""
    one, two = (await world.chat(n=2)).json()["attune"]["handles"]
    other = await handle_of(world)
    target = claims_of(world, one).target
    assert isinstance(target, AnswerTarget)
    for field, value in (
        ("choice", 1),
        ("completion_id", claims_of(world, other).conversation),
        ("version", 2),
        ("target", target.model_copy(update={"choice": 1}).model_dump()),
        ("tenant", "other"),
        ("end_user", "user_1"),
        ("conversation", "conv_1"),
    ):
        answer = await world.post("/v1/feedback", {"handle": one, **THUMB, field: value}, key=None)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    for theirs in (two, other):
        size = len(one.rpartition(".")[0]) + 1
        for cut in (size + 16, len(one) // 2, len(one) - 22):
            await refused(world, one[:cut] + theirs[cut:], "handle_forged")
    moved = target.model_copy(update={"choice": 1})
    await refused(
        world, signed(world, claims_of(world, one).model_copy(update={"target": moved}), b"y" * 32), "handle_forged"
    )
    assert world.feedback() == []


async def test_an_answer_is_no_comparison_and_a_comparison_no_answer(world: World) -> None:
    answer = await handle_of(world)
    comparison = (await world.chat(path="/v1/comparisons", k=2)).json()["handle"]
    world.settle()
    before = len(world.feedback())
    for handle, body in (
        (comparison, THUMB),
        (comparison, {"kind": "rating", "stars": 5}),
        (comparison, {"kind": "correction", "text": "so"}),
        (answer, {"kind": "comparison", "winner": 0}),
        (answer, {"kind": "ranking", "order": [[0], [1]]}),
    ):
        refusal = await world.post("/v1/feedback", {"handle": handle, **body}, key=None)
        assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "kind")
    assert len(world.feedback()) == before


async def test_a_comparison_cannot_speak_of_another(world: World) -> None:
    """Neither by a part of another's handle, nor by naming a candidate that it has not."""
    one, two = [(await world.chat(path="/v1/comparisons", k=k)).json()["handle"] for k in (2, 3)]
    world.settle()
    before = len(world.feedback())
    size = len(one.rpartition(".")[0]) + 1
    for cut in (size + 16, len(one) // 2, len(one) - 22):
        await refused(world, one[:cut] + two[cut:], "handle_forged")
    for body in (
        {"kind": "comparison", "winner": 2},
        {"kind": "ranking", "order": [[2], [0, 1]]},
        {"kind": "comparison", "winner": 0, "comparison_id": "cmp_1"},
    ):
        answer = await world.post("/v1/feedback", {"handle": one, **body}, key=None)
        assert answer.status_code == 400, answer.text
    assert len(world.feedback()) == before


async def test_a_handle_said_again_counts_once(world: World) -> None:
    """A replay of the very same request is no attack: it is stored under the same id."""
    body = {"handle": await handle_of(world), **THUMB, "idempotency_key": "click-1"}
    answers: list[httpx.Response] = [await world.post("/v1/feedback", body, key=None) for _ in range(5)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(world.feedback()) == 1


async def test_refusals_say_nothing_of_what_was_sent(world: World) -> None:
    secret = "a-very-personal-handle"
    answer = await world.post("/v1/feedback", {"handle": secret, **THUMB}, key=None)
    assert secret not in json.dumps(answer.json()) + str(answer.headers)
