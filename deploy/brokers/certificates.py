"""Certificates made on the spot for a broker on loopback and its clients. For tests: the authority is thrown away."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority, one certificate that it signed, the key of that, and both in one as Kafka wants it."""

    ca: Path
    cert: Path
    key: Path
    both: Path


def make_certificates(folder: Path, name: str, *, ca_from: Authority | None = None) -> Certificates:
    """A certificate for `name`, valid for 127.0.0.1 and localhost, in `folder`; its authority is new unless given."""
    authority = ca_from or Authority.new()
    key = ec.generate_private_key(ec.SECP256R1())
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        _builder(name, authority.name, key)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.both.pem")
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made.ca.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    made.cert.write_bytes(certificate_pem)
    for path, content in ((made.key, key_pem), (made.both, key_pem + certificate_pem)):
        path.touch(mode=0o600)
        path.write_bytes(content)
    return made


@dataclass(frozen=True)
class Authority:
    """An authority that signs certificates."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> Authority:
        """One that nobody trusts yet."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = "Attune test authority"
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates, lists
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(name, key, certificate)


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
    )
