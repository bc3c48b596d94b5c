"""The server's settings: file and environment, unknown keys by name, relative paths, hidden secrets."""

from __future__ import annotations

import tomllib
from pathlib import Path

import httpx
import pytest

from exchange.settings import describe
from schemas.errors import ConfigError
from server.main import KEEP_ALIVE_S
from server.settings import ServerSettings, load_settings

MINIMAL = '[engine]\nmodel = "some/model"\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_defaults_and_relative_paths_come_from_the_files_folder(tmp_path: Path) -> None:
    settings = load_settings(_write(tmp_path, MINIMAL))
    assert settings.server.policies == ("support",)
    assert settings.server.log == f"sqlite:///{tmp_path}/log.db"
    assert settings.server.registry == f"file://{tmp_path}/registry"
    assert settings.server.api_keys == tmp_path / "api-keys.json"
    assert settings.engine.model == "some/model"
    assert settings.engine_settings().base_names == ("support@v0",)


def test_absolute_addresses_and_model_folders(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    text = (
        '[server]\nlog = "kafka://a:9092,b:9092"\nregistry = "file:///srv/registry"\nkeys = "sqlite:////srv/keys.db"\n'
    )
    settings = load_settings(_write(tmp_path, text + '[engine]\nmodel = "base"\n'))
    assert settings.server.log == "kafka://a:9092,b:9092"
    assert settings.server.registry == "file:///srv/registry"
    assert settings.server.keys == "sqlite:////srv/keys.db"
    assert settings.engine.model == str(tmp_path / "base")


def test_environment_overrides_single_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_SERVER__PORT", "9001")
    monkeypatch.setenv("ATTUNE_ENGINE__VLLM_ARGS", '{"dtype": "float32"}')
    monkeypatch.setenv("ATTUNE_URL", "http://the-command-line-reads-this")
    settings = load_settings(_write(tmp_path, '[server]\nport = 8001\nhost = "0.0.0.0"\n' + MINIMAL))
    assert (settings.server.port, settings.server.host) == (9001, "0.0.0.0")  # noqa: S104
    assert settings.engine.vllm_args == {"dtype": "float32"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1\n" + MINIMAL, r"unknown setting server\.prot \(did you mean port\?\)"),
        (MINIMAL + "max_lora = 4\n", r"unknown setting engine\.max_lora \(did you mean max_loras\?\)"),
        (MINIMAL + "[swop]\n", r"unknown setting swop \(did you mean swap\?\)"),
        (MINIMAL + "[swap]\nzzzz = 1\n", r"unknown setting swap\.zzzz \(known here: admin_wait_seconds, "),
        ("[server]\n", r"engine is missing"),
        (MINIMAL + "max_loras = 1\n", r"engine\.max_loras: Input should be greater than or equal to 3"),
        ("[server]\npolicies = ['a', 'a']\n" + MINIMAL, "names a policy twice"),
        ("[server\n", "cannot be read as TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(_write(tmp_path, text))


def test_faults_in_the_environment_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, MINIMAL)
    monkeypatch.setenv("ATTUNE_SERVER__HOTS", "x")
    with pytest.raises(ConfigError, match=r"unknown setting server\.hots \(did you mean host\?\)"):
        load_settings(path)
    monkeypatch.delenv("ATTUNE_SERVER__HOTS")
    monkeypatch.setenv("ATTUNE_SERVER__POLICIES", "support")
    with pytest.raises(ConfigError, match="the environment cannot be read"):
        load_settings(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no settings file"):
        load_settings(tmp_path / "none.toml")


def test_secrets_are_hidden_and_what_is_shown_is_toml(tmp_path: Path) -> None:
    text = (
        '[server]\nlog = "kafka://operator:hunter2@broker:9092"\n[chat]\nsecret = "planted-secret"\n'
        + MINIMAL
        + '[engine.vllm_args]\nhf-token = "planted-token"\nmax-model-len = 512\n'
    )
    settings = load_settings(_write(tmp_path, text))
    for shown in (describe(settings), repr(settings)):
        assert "planted-secret" not in shown
    shown = describe(settings)
    assert "hunter2" not in shown
    assert "planted-token" not in shown
    values = tomllib.loads(shown)
    assert values["server"]["log"] == "kafka://operator:(hidden)@broker:9092"
    assert values["engine"]["vllm_args"] == {"hf-token": "(hidden)", "max-model-len": 512}
    assert values["chat"]["secret"] == "(hidden)"


@pytest.mark.parametrize(
    ("host", "public", "open_"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("localhost", None, True),
        ("0.0.0.0", None, False),  # noqa: S104
        ("attune.example", None, False),
        ("0.0.0.0", True, True),  # noqa: S104
        ("127.0.0.1", False, False),
    ],
)
def test_metrics_are_open_on_loopback_only(host: str, public: bool | None, open_: bool) -> None:
    settings = ServerSettings.model_validate(
        {"server": {"host": host, "metrics_public": public}, "engine": {"model": "some/model"}}
    )
    assert settings.server.metrics_open is open_


def test_an_idle_connection_is_closed_by_the_client_first() -> None:
    expiry = httpx.Limits().keepalive_expiry
    assert expiry is not None
    assert 2 * expiry < KEEP_ALIVE_S
