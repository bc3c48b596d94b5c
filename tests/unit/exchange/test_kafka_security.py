"""Credentials for Kafka: contradictions are named, files are checked, and the password shows nowhere."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deploy.brokers.certificates import make_certificates
from exchange.log.security import SecuritySettings, librdkafka_options, python_options
from exchange.settings import describe
from schemas.errors import ConfigError

SASL: dict[str, Any] = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": "attune"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"username": "attune"}, "mean nothing with security_protocol"),
        ({"password": "hunter2"}, "mean nothing with security_protocol"),
        ({"ca_file": "ca.pem"}, "set SSL or SASL_SSL"),
        ({"security_protocol": "SSL", "cert_file": "cert.pem"}, "belong together"),
        ({**SASL, "sasl_mechanism": None, "password": "hunter2"}, "needs sasl_mechanism"),
        ({**SASL}, "needs username, and one of password and password_file"),
        ({**SASL, "password": "hunter2", "password_file": "file"}, "one of password and password_file"),
    ],
)
def test_contradictions_are_refused_without_the_secret(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named) as refused:
        SecuritySettings(**values)
    assert "hunter2" not in str(refused.value.errors(include_input=False))


def test_the_password_comes_from_setting_or_file_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    direct, filed = SecuritySettings(**SASL, password="hunter2"), SecuritySettings(**SASL, password_file=path)
    for settings in (direct, filed):
        assert python_options(settings)["sasl_plain_password"] == "hunter2"
        assert librdkafka_options(settings)["sasl.password"] == "hunter2"
        assert "hunter2" not in describe(settings) + repr(settings)
    assert 'password = "(hidden)"' in describe(direct)
    path.write_text("\n")
    with pytest.raises(ConfigError, match=r"kafka\.password_file is empty"):
        filed.secret()
    path.unlink()
    with pytest.raises(ConfigError, match=r"kafka\.password_file cannot be read: No such file"):
        python_options(filed)


def test_certificates_are_loaded_and_faulty_ones_named(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, "broker")
    good = SecuritySettings(security_protocol="SSL", ca_file=made.ca, cert_file=made.cert, key_file=made.key)
    context = python_options(good)["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert librdkafka_options(good)["ssl.ca.location"] == str(made.ca)
    noise = tmp_path / "noise.pem"
    noise.write_text("hunter2")
    for settings, named in (
        (good.model_copy(update={"ca_file": noise}), r"kafka\.ca_file .*noise\.pem cannot be used"),
        (good.model_copy(update={"ca_file": tmp_path / "none"}), r"kafka\.ca_file .*No such file"),
        (good.model_copy(update={"key_file": noise}), r"kafka\.cert_file .* and kafka\.key_file cannot be used"),
    ):
        with pytest.raises(ConfigError, match=named) as refused:
            python_options(settings)
        assert "hunter2" not in str(refused.value)


def test_plain_text_needs_nothing() -> None:
    assert python_options(SecuritySettings()) == {"security_protocol": "PLAINTEXT"}
    assert librdkafka_options(SecuritySettings()) == {"security.protocol": "PLAINTEXT"}
