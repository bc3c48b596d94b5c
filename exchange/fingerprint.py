"""Which base model this is, and how it renders prompts: two hashes that server and trainer compute from the same files.

Knows file names of Hugging Face model folders. Loads no tensor and no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import snapshot_download

from schemas.errors import NotFound

WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
TEXT_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt")


def local_model_folder(model: str) -> Path:
    """The folder of a model given by path, or by Hugging Face name (fetched into the shared cache if it is not
    there).
    """
    path = Path(model)
    if path.is_dir():
        return path.resolve()
    return Path(snapshot_download(model, allow_patterns=[*WEIGHT_PATTERNS, *TEXT_PATTERNS]))


def base_fingerprint(folder: Path) -> str:
    """sha-256 over the sorted lines `name NUL sha256 LF` of config.json and every weight file at the top of `folder`.

    Raises NotFound when there is no config.json or no weight file.
    """
    weights = {path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)}
    config = folder / "config.json"
    if not weights or not config.is_file():
        raise NotFound(
            f"{folder.name} holds no model", remedy="A model folder has a config.json and *.safetensors or *.bin files."
        )
    lines = [f"{path.name}\0{_file_sha256(path)}\n" for path in sorted({config, *weights})]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def chat_template_hash(folder: Path) -> str:
    """`template_hash` of the folder's own template: chat_template.jinja, else the tokenizer's, else the empty text."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return template_hash(jinja.read_text(encoding="utf-8"))
    config = folder / "tokenizer_config.json"
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(template, list):  # several named templates
        template = json.dumps(template, sort_keys=True)
    return template_hash(template or "")


def template_hash(template: str) -> str:
    """sha-256 of a chat template's text in UTF-8."""
    return hashlib.sha256(template.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
