"""Imported text as the base model reads it: its chat template, its end token, its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import InvalidInput
from schemas.imported import ChatMessage
from tests.tiny_models import make_tiny_model
from trainer.gates.sample import chat_encoder, load_tokenizer

ASKED = (ChatMessage(role="user", content="Hello"),)


def test_a_conversation_is_rendered_as_the_server_renders_it(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    prompt, answer = chat_encoder(folder, tokenizer, 100)(ASKED, "my order")
    assert tokenizer.decode(prompt) == "<bos><user>Hello<eos><assistant>"
    assert tokenizer.decode(answer) == "my order<eos>"


def test_what_is_too_long_or_no_template_takes_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    with pytest.raises(InvalidInput, match="tokens are more than 5"):
        chat_encoder(folder, tokenizer, 5)(ASKED, "my order has not arrived")
    with pytest.raises(InvalidInput, match="are more than"):
        chat_encoder(folder, tokenizer, 10**9)(ASKED, "my order " * 5000)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidInput, match="roles must alternate"):
        chat_encoder(folder, tokenizer, 100)(ASKED, "my order")
