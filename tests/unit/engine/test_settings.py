"""Engine settings become vLLM's flags; what would break recording, or do nothing, is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.engine.errors import EngineSettingsError
from server.engine.settings import EngineSettings, vllm_flags


def settings(**vllm_args: Any) -> EngineSettings:
    return EngineSettings(model="folder", base_names=("support@v0", "base"), vllm_args=vllm_args)


def test_flags_are_passed_on_and_ours_are_added() -> None:
    words = vllm_flags(
        settings(
            max_model_len=64, trust_remote_code=False, override_generation_config={"top_p": 1.0}, enforce_eager=True
        )
    )
    assert words == [
        *("--max-model-len", "64", "--no-trust-remote-code"),
        *("--override-generation-config", '{"top_p": 1.0}', "--enforce-eager"),
        *("--enable-lora", "--logprobs-mode", "processed_logprobs", "--api-server-count", "1"),
        *("--worker-extension-cls", "server.engine.worker.AttuneWorker"),
        *(
            "--max-loras",
            "3",
            "--max-lora-rank",
            "16",
            "--model",
            "folder",
            "--served-model-name",
            "support@v0",
            "base",
        ),
    ]


def test_repeating_what_attune_sets_is_harmless() -> None:
    assert (
        vllm_flags(settings(enable_lora=True, **{"--logprobs-mode": "processed_logprobs"})).count("--enable-lora") == 1
    )


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("enable_lora", False, "--enable-lora"),
        ("no-enable-lora", True, "--enable-lora"),
        ("logprobs-mode", "raw_logprobs", "--logprobs-mode"),
        ("api_server_count", 2, "--api-server-count"),
        ("served-model-name", "x", "--served-model-name"),
        ("--max-loras", 8, "--max-loras"),
        ("lora_modules", "a=b", "--lora-modules"),
        ("port", 8000, "--port"),
        ("config", "vllm.yaml", "--config"),
    ],
)
def test_clashes_are_refused_by_name(flag: str, value: Any, named: str) -> None:
    with pytest.raises(EngineSettingsError, match=named) as refused:
        vllm_flags(settings(**{flag: value}))
    assert refused.value.field == f"engine.vllm_args.{flag}"
    assert refused.value.remedy


def test_fewer_than_three_slots_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_loras"):
        EngineSettings(model="folder", base_names=("support@v0",), max_loras=2)
