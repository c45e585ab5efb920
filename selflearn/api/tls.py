"""The certificate of the HTTP interface."""

from __future__ import annotations

import ssl
from typing import Any

import uvicorn

from selflearn.config import ApiSettings
from selflearn.errors import ConfigurationError


def certificate(api: ApiSettings) -> ssl.SSLContext | None:
    """What connections are encrypted with: TLS 1.2 or newer; None without a certificate.

    Raises ``ConfigurationError`` for files that cannot be read or do not belong together.
    """
    if api.tls_certificate_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    renew(context, api)
    return context


def renew(context: ssl.SSLContext, api: ApiSettings) -> None:
    """Has connections to come use the certificate that the files have now. Raises as :func:`certificate`."""
    if api.tls_certificate_file is None:
        raise ConfigurationError("api.tls_certificate_file is not set any more; without it nothing can be encrypted.")
    try:
        # a password that is never right: OpenSSL would ask for one on the terminal, and wait
        context.load_cert_chain(api.tls_certificate_file, api.tls_key_file, password="")
    except (OSError, ValueError) as error:
        key = api.tls_key_file or api.tls_certificate_file
        raise ConfigurationError(
            f"The certificate {api.tls_certificate_file} with the key in {key} cannot be used: {error}. Both must "
            "be in PEM, belong together and have no password; see api.tls_certificate_file and api.tls_key_file."
        ) from error


def server_options(context: ssl.SSLContext | None) -> dict[str, Any]:
    """What uvicorn has to be told to use it."""
    if context is None:
        return {}

    def factory(config: uvicorn.Config, default: object) -> ssl.SSLContext:
        del config, default
        return context

    return {"ssl_context_factory": factory}
