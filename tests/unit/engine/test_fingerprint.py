"""Server and trainer name a base model alike, from its files alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from exchange.fingerprint import base_fingerprint, chat_template_hash, local_model_folder, template_hash
from schemas.errors import NotFound


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_fingerprint_is_the_hash_of_names_and_hashes(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    config, weights = hashlib.sha256(b"{}").hexdigest(), hashlib.sha256(b"weights").hexdigest()
    lines = f"config.json\0{config}\nmodel.safetensors\0{weights}\n"
    assert base_fingerprint(folder) == hashlib.sha256(lines.encode()).hexdigest()


def test_only_config_and_weights_count(tmp_path: Path) -> None:
    one, two = model(tmp_path / "a"), model(tmp_path / "b")
    (two / "README.md").write_text("words")
    assert base_fingerprint(one) == base_fingerprint(two)
    (two / "model.safetensors").write_bytes(b"other")
    assert base_fingerprint(one) != base_fingerprint(two)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no model"):
        base_fingerprint(tmp_path)
    assert local_model_folder(str(tmp_path)) == tmp_path.resolve()


def test_template_comes_from_its_file_else_from_the_tokenizer(tmp_path: Path) -> None:
    assert chat_template_hash(tmp_path) == template_hash("")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    assert chat_template_hash(tmp_path) == template_hash("{{ x }}")
    (tmp_path / "chat_template.jinja").write_text("{{ y }}")
    assert chat_template_hash(tmp_path) == template_hash("{{ y }}") == hashlib.sha256(b"{{ y }}").hexdigest()
