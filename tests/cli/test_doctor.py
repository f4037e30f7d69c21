"""``pixir-sync doctor`` and ``pixir-sync models``."""

from __future__ import annotations

import json

import pytest

from pixir_sync.local import LocalServer
from tests.cli.conftest import Command
from tests.cli.support import refused_url


def states(out: str) -> dict[str, str]:
    """The state of each check, by its name."""
    return {line.split()[1]: line.split()[0] for line in out.splitlines()}


def test_locally_all_is_well_without_a_key(command: Command) -> None:
    """Every check is one line and ok; the status is 0."""
    done = command("doctor", "--local", OPENAI_API_KEY="")
    assert (done.status, done.err) == (0, "")
    assert states(done.out) == dict.fromkeys(["python", "packages", "extras", "settings", "key", "network", "probe"], "ok")


def test_against_a_server_it_makes_a_call(here: Command, server: LocalServer) -> None:
    """The probe is a real call; the key is never shown."""
    done = here("doctor", "--base-url", server.base_url)
    assert done.status == 0
    assert "local-key" not in done.out
    assert [request.path for request in server.requests] == ["/v1/responses"]


def test_without_a_key_it_says_so_and_calls_nobody(here: Command, server: LocalServer) -> None:
    """The network is still looked at; the probe is skipped."""
    done = here("doctor", "--base-url", server.base_url, key=None)
    assert done.failed_with("something is wrong: key")
    assert {name: states(done.out)[name] for name in ("key", "network", "probe")} == {
        "key": "wrong", "network": "ok", "probe": "skipped"}  # fmt: skip
    assert server.requests == []


def test_where_no_key_is_needed_none_is_missed(here: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is called without one; this one wants one after all."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    done = here("doctor", "--endpoint", "vllm", "--base-url", server.base_url, key=None)
    assert done.failed_with("something is wrong: probe") and "none, and none is needed" in done.out
    assert len(server.requests) == 1


def test_a_wrong_key_fails_the_probe(here: Command, server: LocalServer) -> None:
    """The server's own word, without the key."""
    done = here("doctor", "--base-url", server.base_url, key="sk-sentinel")
    assert done.failed_with("something is wrong: probe")
    assert "not_authenticated: Incorrect API key provided." in done.out
    assert "sentinel" not in done.out + done.err


def test_a_server_that_is_not_there_fails_the_network(here: Command) -> None:
    """A refused port, at once."""
    done = here("doctor", "--base-url", refused_url())
    assert done.failed_with("something is wrong: network")
    assert "cannot be reached: Connection refused" in done.out


def test_a_server_without_tls_is_told(here: Command, server: LocalServer) -> None:
    """A port that speaks something else than TLS is one line, like all else."""
    done = here("doctor", "--base-url", server.base_url.replace("http://", "https://"))
    assert done.failed_with("something is wrong: network")
    assert "no TLS with 127.0.0.1:" in done.out


def test_a_wrong_setting_is_a_check_that_failed(here: Command) -> None:
    """What Provider refuses is told in its words."""
    done = here("doctor", "--base-url", "gopher://host")
    assert done.failed_with("something is wrong: settings")
    assert "base_url must begin with http:// or https://" in done.out


def test_doctor_json_is_one_object(here: Command) -> None:
    """The same checks, for programs."""
    done = here("doctor", "--local", "--json", key=None)
    found = json.loads(done.out)
    assert found["ok"] is True
    assert [check["state"] for check in found["checks"]] == ["ok"] * 7


def test_models_are_listed_one_per_line(here: Command) -> None:
    """In a pipe, the bare names."""
    with LocalServer(models=["b-model", "a-model"]) as server:
        done = here("models", "--base-url", server.base_url)
    assert (done.status, done.out) == (0, "a-model\nb-model\n")


def test_models_json_has_the_default(here: Command) -> None:
    """The names and the model of calls that name none."""
    done = here("models", "--local", "--json", "--model", "mine")
    assert json.loads(done.out) == {"models": ["local-model"], "default": "mine"}


def test_models_needs_a_key(here: Command) -> None:
    """Like every call."""
    assert here("models", key=None).failed_with("no API key: set OPENAI_API_KEY, or use --local")
