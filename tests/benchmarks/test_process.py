"""What a client's process is given, and where the official SDK's environment may be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.process import environ, official_python


def test_a_client_finds_the_peer_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no other authority, no endpoint or key of the caller's; the rest of its environment stays."""
    endpoints = ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "PIXIR_TRANSPORT")
    for name in ("https_proxy", "ALL_PROXY", "REQUESTS_CA_BUNDLE", "PYTHONDONTWRITEBYTECODE", *endpoints):
        monkeypatch.setenv(name, "something")
    monkeypatch.setenv("LANG", "de_AT.UTF-8")
    found = environ("authority.pem")
    assert {name for name, value in found.items() if value == "something"} == set()
    assert (found["SSL_CERT_FILE"], found["LANG"]) == ("authority.pem", "de_AT.UTF-8")


def test_no_folder_with_something_else_is_cleared(tmp_path: Path) -> None:
    """Making an environment empties its folder: one that is none stays as it is."""
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="no virtual environment"):
        official_python(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
