"""Tests of a Flask site with a Provider at module level, for pytest."""

from __future__ import annotations

from collections.abc import Iterator

import flask_site
import pytest
from flask.testing import FlaskClient

from pixir_sync import Provider
from pixir_sync.local import LocalServer, faults


@pytest.fixture
def client(pixir_environment: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """A client of the site, whose Provider is one for the local server while the test runs."""
    with Provider() as provider:
        monkeypatch.setattr(flask_site, "provider", provider)
        yield flask_site.app.test_client()


def test_an_answer(client: FlaskClient) -> None:
    assert client.post("/ask", data={"text": "Hello"}).json == {"said": "Heard: Hello (context: 1)"}


def test_an_answer_as_it_is_written(client: FlaskClient) -> None:
    assert client.post("/stream", data={"text": "Hello"}).text == "Heard: Hello (context: 1)"


def test_an_empty_account(client: FlaskClient, pixir_server: LocalServer) -> None:
    with pixir_server.fault(faults.Refuse(429, code="insufficient_quota", type="insufficient_quota")):
        answer = client.post("/ask", data={"text": "Hello"})
    assert (answer.status_code, answer.json) == (502, {"error": "quota_exceeded"})
