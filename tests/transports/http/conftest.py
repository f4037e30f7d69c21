"""Fixtures of the HTTP transport's tests."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.transports.http.helpers import Wire


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no authority of the machine's own gets into a test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """An authority, and the file with its certificate."""
    made = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    made.cert_pem.write_to_path(str(path))
    return made, path


@pytest.fixture(scope="session")
def tls(authority: tuple[trustme.CA, Path]) -> Wire:
    """TLS with a certificate for this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return Wire("tls", context, str(authority[1]))


@pytest.fixture
def plain() -> Wire:
    return Wire("plain", None, None)


@pytest.fixture(params=["plain", "tls"])
def wire(request: pytest.FixtureRequest, plain: Wire, tls: Wire) -> Wire:
    """Plain, then TLS."""
    return plain if request.param == "plain" else tls
