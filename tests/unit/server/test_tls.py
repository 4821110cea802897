"""TLS with certificates made here, and files that cannot be used."""

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.unit.server.conftest import Start

from tupelo.errors import ConfigError
from tupelo_server.config import ServerConfig
from tupelo_server.tls import tls_options

PASSWORD = "open-sesame"


class Files(NamedTuple):
    """A self-signed certificate, its key, and the key under a password."""

    cert: Path
    key: Path
    locked_key: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Files(folder / "cert.pem", folder / "key.pem", folder / "locked.pem")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.cert.write_bytes(certificate.public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    locked = serialization.BestAvailableEncryption(PASSWORD.encode())
    files.locked_key.write_bytes(key.private_bytes(pem, pkcs8, locked))
    return files


def client(url: str, files: Files, *, own: bool = False) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(files.cert))
    if own:
        context.load_cert_chain(files.cert, files.key)
    return httpx.Client(base_url=url.replace("http:", "https:"), verify=context, timeout=10)


@pytest.mark.parametrize("locked", [False, True])
def test_requests_over_tls(start: Start, files: Files, locked: bool) -> None:
    options = {"ssl_certfile": str(files.cert), "ssl_keyfile": str(files.key)}
    if locked:
        options |= {"ssl_keyfile": str(files.locked_key), "ssl_keyfile_password": PASSWORD}
    service = start(**options)
    with client(service.url, files) as https:
        assert https.get("/v1/models").status_code == 200
        reply = https.post("/v1/completions", json={"prompt": "a", "stream": True})
        assert reply.text.endswith("data: [DONE]\n\n")
        text = https.get("/server_info").text
        assert PASSWORD not in text
        assert str(files.cert.parent) not in text
    with pytest.raises(httpx.TransportError):
        service.http.get("/health")


def test_client_certificates(start: Start, files: Files) -> None:
    service = start(
        ssl_certfile=str(files.cert), ssl_keyfile=str(files.key), ssl_ca_certs=str(files.cert)
    )
    with client(service.url, files, own=True) as known:
        assert known.get("/health").status_code == 200
    with client(service.url, files) as unknown, pytest.raises(httpx.TransportError):
        unknown.get("/health")


def test_unusable_files_are_found_at_start(files: Files, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    good: dict[str, Any] = {"ssl_certfile": str(files.cert), "ssl_keyfile": str(files.key)}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"ssl_certfile": str(files.cert)}, "needs --ssl-keyfile"),
        ({"ssl_keyfile": str(files.key)}, "--ssl-keyfile needs --ssl-certfile"),
        ({"ssl_ca_certs": str(files.cert)}, "--ssl-ca-certs needs"),
        ({**good, "ssl_certfile": str(tmp_path / "none")}, "--ssl-certfile .*No such file"),
        ({**good, "ssl_keyfile": str(tmp_path)}, "--ssl-keyfile .*irectory"),
        ({**good, "ssl_certfile": str(rubbish)}, "--ssl-certfile .*PEM"),
        ({**good, "ssl_keyfile": str(rubbish)}, "--ssl-keyfile .*PEM"),
        ({**good, "ssl_keyfile": str(files.locked_key)}, "password"),
        (
            {**good, "ssl_keyfile": str(files.locked_key), "ssl_keyfile_password": "wrong"},
            "password",
        ),
        ({**good, "ssl_ca_certs": str(rubbish)}, "--ssl-ca-certs .*PEM"),
    ]
    for options, message in bad:
        with pytest.raises(ConfigError, match=message):
            tls_options(ServerConfig(**options))
