"""TLS: the files are read once before the model is loaded, so that a wrong one is found at once."""

import ssl
from pathlib import Path
from typing import Any

from tupelo.errors import ConfigError
from tupelo_server.config import ServerConfig


def tls_options(config: ServerConfig) -> dict[str, Any]:
    """uvicorn's options for TLS; none where no certificate is given.

    Raises:
        ConfigError: a file that cannot be used, named by its flag, or one that is missing.
    """
    if not config.ssl_certfile:
        for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(config, name):
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} needs --ssl-certfile")
        return {}
    if not config.ssl_keyfile:
        raise ConfigError("--ssl-certfile needs --ssl-keyfile")
    _check(config)
    options: dict[str, Any] = {
        "ssl_certfile": config.ssl_certfile,
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_keyfile_password": config.ssl_keyfile_password or None,
    }
    if config.ssl_ca_certs:
        options |= {"ssl_ca_certs": config.ssl_ca_certs, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _check(config: ServerConfig) -> None:
    """Load everything into a context that is thrown away.

    Raises:
        ConfigError: names the flag and the file.
    """
    for flag, path in (
        ("--ssl-certfile", config.ssl_certfile),
        ("--ssl-keyfile", config.ssl_keyfile),
        ("--ssl-ca-certs", config.ssl_ca_certs),
    ):
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{flag} {path}: {error.strerror}; give a readable file") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A callback, for without one OpenSSL asks for a password on the terminal.
    password = config.ssl_keyfile_password
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, lambda: password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"--ssl-certfile {config.ssl_certfile}, --ssl-keyfile {config.ssl_keyfile}: "
            f"{_reason(error)}; give a PEM certificate with its key, and the key's password"
        ) from None
    try:
        if config.ssl_ca_certs:
            context.load_verify_locations(config.ssl_ca_certs)
    except ssl.SSLError as error:
        raise ConfigError(
            f"--ssl-ca-certs {config.ssl_ca_certs}: {_reason(error)}; give PEM certificates"
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
