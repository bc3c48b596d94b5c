"""Handles and sealed parts open only for what they were made for."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, HandleRefused, SealBroken
from schemas.feedback import AnswerTarget, CandidateRef, ComparisonTarget
from schemas.handles import HandleClaims, Keyring, issue_handle, verify_handle
from schemas.sealed import Sealed, seal, unseal

RING = Keyring(active="k2", keys={"k1": b"1" * 32, "k2": b"2" * 32})
CLAIMS = HandleClaims(
    tenant="acme",
    api_key_id="app",
    end_user="user_9c1b",
    conversation="conv_1",
    policy="support",
    target=AnswerTarget(completion_id="cmpl_1", choice=1, version=3),
    expires_at=1_000,
)


def reason(handle: str, ring: Keyring = RING, now: int = 0) -> str:
    with pytest.raises(HandleRefused) as caught:
        verify_handle(handle, ring, now=now)
    return caught.value.reason


def test_a_handle_gives_back_its_claims_until_it_expires() -> None:
    handle = issue_handle(CLAIMS, RING)
    assert verify_handle(handle, RING, now=999) == CLAIMS
    assert reason(handle, now=1_000) == "expired"


def test_old_keys_verify_and_forgotten_ones_do_not() -> None:
    old = issue_handle(CLAIMS, Keyring(active="k1", keys={"k1": b"1" * 32}))
    assert verify_handle(old, RING, now=0) == CLAIMS
    assert reason(old, Keyring(active="k2", keys={"k2": b"2" * 32})) == "unknown_key"


def test_a_handle_of_another_service_with_the_same_key_id_is_forged() -> None:
    assert reason(issue_handle(CLAIMS, Keyring(active="k2", keys={"k2": b"x" * 32}))) == "forged"


def test_a_key_id_cannot_be_swapped() -> None:
    ring = Keyring(active="k1", keys={"k1": b"1" * 32, "k2": b"1" * 32})
    assert reason(issue_handle(CLAIMS, ring).replace(".k1.", ".k2."), ring) == "forged"


@pytest.mark.parametrize("conversation", ["c", "cc", "ccc"])  # of every length that base64 ends differently for
def test_a_handle_has_one_text(conversation: str) -> None:
    handle = issue_handle(CLAIMS.model_copy(update={"conversation": conversation}), RING)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in set(alphabet) - {handle[-1]}:
        assert reason(handle[:-1] + last) == "forged"
    for near in (handle + "=", handle + "==", handle.replace("-", "+").replace("_", "/") + "="):
        assert reason(near) == "forged"


def test_a_handle_shows_nobody_what_it_says() -> None:
    target = ComparisonTarget(
        comparison_id="cmp_1",
        candidates=(
            CandidateRef(completion_id="cmpl_a", choice=0, version=3),
            CandidateRef(completion_id="cmpl_b", choice=0, version=4),
        ),
    )
    handle = issue_handle(CLAIMS.model_copy(update={"target": target}), RING)
    encoded = handle.split(".")[2]
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    for secret in (b"cmpl_a", b"user_9c1b", b"acme", b"version"):
        assert secret not in raw


@given(st.text(max_size=200))
def test_nonsense_is_refused_not_crashed_on(text: str) -> None:
    assert reason(text) in {"malformed", "unknown_key", "forged"}


@settings(deadline=None)  # the first call may come while the machine is busy
@given(st.data())
def test_any_altered_character_is_refused(data: st.DataObject) -> None:
    handle = issue_handle(CLAIMS, RING)
    place = data.draw(st.integers(0, len(handle) - 2))  # the last character may carry unused bits
    other = data.draw(st.characters(codec="ascii").filter(lambda character: character != handle[place]))
    assert reason(handle[:place] + other + handle[place + 1 :]) in {"malformed", "unknown_key", "forged"}


def test_keyrings_are_checked() -> None:
    with pytest.raises(ConfigError, match="not in the keyring"):
        Keyring(active="k3", keys={"k1": b"1" * 32})
    with pytest.raises(ConfigError, match="32 bytes"):
        Keyring(active="k1", keys={"k1": b"short"})


def test_sealed_content_opens_with_its_key_and_event_only() -> None:
    sealed = seal("grüße".encode(), key=b"k" * 32, key_id="key_1", subject="user_1", event_id="cmpl_1")
    assert unseal(sealed, key=b"k" * 32, event_id="cmpl_1").decode() == "grüße"
    for key, event_id in ((b"x" * 32, "cmpl_1"), (b"k" * 32, "cmpl_2")):
        with pytest.raises(SealBroken):
            unseal(sealed, key=key, event_id=event_id)
    for data in ("", "!!", sealed.data[:8]):
        with pytest.raises(SealBroken):
            unseal(Sealed(subject="user_1", key_id="key_1", data=data), key=b"k" * 32, event_id="cmpl_1")


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    made = {seal(b"x", key=b"k" * 32, key_id="k", subject="s", event_id="e").data for _ in range(8)}
    assert len(made) == 8
