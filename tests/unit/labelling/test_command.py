"""`attune label` against a running server: from a published constitution to words that are known for a model's."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.labelling.command import KEY_VARIABLE
from exchange.guidance import publish_guidance
from schemas.completion import ConsentLevel
from schemas.errors import AttuneError, ConfigError, InvalidInput, NotFound
from schemas.manifests import GuidanceKind
from server.auth import KeyFile, Scope
from server.settings import load_settings
from tests.live import WINDOW_MS, Live, live_server
from tests.unit.guidance.support import CONSTITUTION, PROMPTS
from tests.unit.labelling.endpoint import KEY, Asked, Endpoint, says
from trainer.joining.eligibility import Scope as Base
from trainer.joining.join import join


def labelled(live: Live, *words: str) -> str:
    """What `attune label` prints, with a key of its own for the server."""
    keys = KeyFile(load_settings(live.home.server).server.api_keys)
    scopes = (Scope.CHAT, Scope.FEEDBACK, Scope.READ)
    _, key = keys.create(tenant="acme", scopes=scopes, default_consent=ConsentLevel.TRAIN, may_claim_sources=True)
    environment = {"COLUMNS": "300", "ATTUNE_URL": live.url, "ATTUNE_API_KEY": key}
    line = ["label", "--endpoint", "http://judge/v1", *words]
    result = CliRunner().invoke(app, line, env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_from_a_constitution_to_words_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shorter(asked: Asked) -> str:
        return says("A" if (len(asked["A"]), asked["A"]) < (len(asked["B"]), asked["B"]) else "B")

    number = itertools.count()
    endpoint, made = Endpoint(shorter), list[dict[str, Any]]()

    def client(**options: Any) -> openai.OpenAI:
        made.append(options)
        return endpoint.client()

    monkeypatch.setattr(openai, "OpenAI", client)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with live_server(tmp_path / "home", reply=lambda *_: f"answer {next(number)}") as live:
        asks = ("--model", "org/judge-8b", "--count", "4")
        with pytest.raises(NotFound, match="no constitution"):
            labelled(live, *asks)
        constitution, _ = publish_guidance(live.registry, GuidanceKind.CONSTITUTION, "support", CONSTITUTION)
        with pytest.raises(AttuneError, match="no prompts of support"):
            labelled(live, *asks)
        publish_guidance(live.registry, GuidanceKind.PROMPTS, "support", PROMPTS)
        told = labelled(live, *asks)
        assert "2 prompts of support@v1; constitution support@v1" in told
        assert "4 pairs: 4 preferences sent" in told
        assert KEY not in told
        assert made[-1]["api_key"] == KEY
        assert len(endpoint.requests) == 8, "both orders of each"

        live.settle()
        known = live.ledger.known()
        assert known.displayed == ()
        assert {word.source for word in known.feedback} == {"ai"}
        assert len({word.end_user for word in known.feedback}) == 1, "one voice"
        labellers = {word.labeller for word in known.feedback}
        assert [(one.model, one.constitution) for one in labellers if one] == [("org/judge-8b", constitution.digest)]
        assert {one.domain for one in known.completions} == {"collected"}
        base = Base(known.completions[0].base_fingerprint, 0)
        result = join(replace(known, watermark=known.watermark + 2 * WINDOW_MS), base, WINDOW_MS)
        assert (len(result.ai), result.words) == (4, ())

        key_file = tmp_path / "key"
        key_file.write_text("sk-other\n", encoding="utf-8")
        labelled(live, *asks, "--count", "1", "--endpoint-key-file", str(key_file))
        assert made[-1]["api_key"] == "sk-other"
        key_file.write_text("", encoding="utf-8")
        with pytest.raises(ConfigError, match="holds no API key"):
            labelled(live, *asks, "--endpoint-key-file", str(key_file))
        with pytest.raises(InvalidInput, match="characters"):
            labelled(live, "--model", "a b")
