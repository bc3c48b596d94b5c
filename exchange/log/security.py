"""How a process proves itself to a Kafka cluster: the settings, and what they mean to client libraries.

Knows TLS and SASL by name; connects to nothing. A password is a `SecretStr` or lies in a file: it never shows in
settings that are printed, in errors or in logs, and has no place in the log's URL.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from schemas.errors import ConfigError

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SecuritySettings(BaseModel):
    """Encryption and credentials towards Kafka; by default neither, which suits a broker on loopback alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    security_protocol: Protocol = Field(
        default="PLAINTEXT",
        description="as the brokers' listener has it: `SSL` encrypts, `SASL_PLAINTEXT` asks for a password, `SASL_SSL` "
        "does both",
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that signed the brokers' certificates; default: those of the system",
    )
    cert_file: Path | None = Field(
        default=None, description="PEM file of this process's own certificate, where the brokers demand one"
    )
    key_file: Path | None = Field(default=None, description="PEM file of the key of `cert_file`")
    sasl_mechanism: Mechanism | None = Field(
        default=None, description="how the password is proved; SCRAM does not send it"
    )
    username: str | None = Field(default=None, min_length=1, description="principal of this process")
    password: SecretStr | None = Field(
        default=None,
        description="its password; better from the environment (ATTUNE_KAFKA__PASSWORD) or `password_file`",
    )
    password_file: Path | None = Field(default=None, description="file that holds the password instead")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.encrypted:
            if (self.cert_file is None) != (self.key_file is None):
                raise ValueError("cert_file and key_file belong together: set both or neither")
        elif any(file is not None for file in (self.ca_file, self.cert_file, self.key_file)):
            raise ValueError(
                f"ca_file, cert_file and key_file mean nothing with security_protocol = "
                f'"{self.security_protocol}"; set SSL or SASL_SSL'
            )
        secrets = [self.password, self.password_file]
        if self.authenticated:
            if self.sasl_mechanism is None:
                raise ValueError(f'security_protocol = "{self.security_protocol}" needs sasl_mechanism')
            if self.username is None or secrets.count(None) != 1:
                raise ValueError(
                    f'security_protocol = "{self.security_protocol}" needs username, and one of password and '
                    "password_file"
                )
        elif self.sasl_mechanism is not None or self.username is not None or secrets.count(None) != 2:
            raise ValueError(
                "sasl_mechanism, username and password mean nothing with security_protocol = "
                f'"{self.security_protocol}"; set SASL_SSL'
            )
        return self

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def authenticated(self) -> bool:
        """Whether a password is asked for."""
        return self.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def secret(self) -> str:
        """The password. Raises ConfigError where its file cannot be read or is empty."""
        if self.password is not None:
            return self.password.get_secret_value()
        if self.password_file is None:
            raise ConfigError("no password is set", field="kafka.password")
        try:
            secret = self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"kafka.password_file cannot be read: {_why(error)}", field="kafka.password_file"
            ) from error
        if not secret:
            raise ConfigError("kafka.password_file is empty", field="kafka.password_file")
        return secret


def python_options(settings: SecuritySettings) -> dict[str, Any]:
    """What kafka-python's clients take.

    Raises:
        ConfigError: a file cannot be read or is no certificate; the message names the setting.
    """
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.encrypted:
        options["ssl_context"] = _tls(settings)
    if settings.authenticated:
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.username
        options["sasl_plain_password"] = settings.secret()
    return options


def librdkafka_options(settings: SecuritySettings) -> dict[str, str]:
    """What clients built on librdkafka (confluent-kafka, kcat) take. Raises ConfigError as `python_options` does."""
    options: dict[str, str] = {"security.protocol": settings.security_protocol}
    if settings.encrypted:
        _tls(settings)  # for its errors, which name the setting
        files = {
            "ssl.ca.location": settings.ca_file,
            "ssl.certificate.location": settings.cert_file,
            "ssl.key.location": settings.key_file,
        }
        options |= {name: str(path) for name, path in files.items() if path is not None}
    if settings.authenticated:
        options["sasl.mechanism"] = str(settings.sasl_mechanism)
        options["sasl.username"] = str(settings.username)
        options["sasl.password"] = settings.secret()
    return options


def _tls(settings: SecuritySettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"kafka.ca_file {settings.ca_file} cannot be used: {_why(error)}",
            field="kafka.ca_file",
            remedy="It must be a PEM file of certificates.",
        ) from error
    if settings.cert_file is not None:
        try:
            # No prompt for the password of a locked key: a service has nobody to answer it.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as error:
            raise ConfigError(
                f"kafka.cert_file {settings.cert_file} and kafka.key_file cannot be used: {_why(error)}",
                field="kafka.cert_file",
                remedy="They must be PEM files of a certificate and its unlocked key.",
            ) from error
    return context


def _why(error: Exception) -> str:
    """An error in its own words, without what it was given to read."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "it is no PEM file"
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__
