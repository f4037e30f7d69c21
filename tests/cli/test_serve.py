"""``pixir-sync serve``: it listens, it takes its key, it stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

import pytest

from pixir_sync import NotAuthenticated, Provider
from tests.cli.conftest import Command
from tests.cli.support import ended, start


def listening(process: subprocess.Popen[str]) -> str:
    """The base URL that a server says it listens on."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[:2] == ["listening", "on"]
    return words[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(keyless: dict[str, str], number: signal.Signals) -> None:
    """A conversation with another process; then Ctrl-C, or a service manager's stop, ends it cleanly."""
    process = start(keyless, "serve", "--port", "0", "--api-key", "mine")
    url = listening(process)
    with Provider(base_url=url, api_key="mine", model="any") as provider:
        assert provider.complete("hi").text == "Heard: hi (context: 1)"
    process.send_signal(number)
    done = ended(process)
    assert (done.status, done.out, done.err) == (0, "", "")


def test_it_takes_no_other_key(keyless: dict[str, str]) -> None:
    """A client with another key is refused."""
    process = start(keyless, "serve", "--api-key", "mine", "--json")
    assert process.stdout is not None
    where = json.loads(process.stdout.readline())
    try:
        with Provider(base_url=where["base_url"], api_key="yours", model="any") as provider, pytest.raises(NotAuthenticated):
            provider.complete("hi")
    finally:
        process.send_signal(signal.SIGINT)
        assert ended(process).status == 0


def test_a_port_that_is_taken_is_one_line(here: Command) -> None:
    """The place and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = here("serve", "--port", str(port))
    assert done.failed_with(f"cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "70000"], "--port"),
        (["--port", "web"], "--port"),
        (["--api-key", "with space"], "--api-key must be printable ASCII"),
        (["--api-key", ""], "--api-key must be printable ASCII"),
        (["--base-url", "http://localhost/v1"], "it takes no --base-url"),
        (["--local"], "it takes no --base-url, --transport or --local"),
    ],
)
def test_a_wrong_call_is_a_usage_error(here: Command, arguments: list[str], text: str) -> None:
    """Status 2, before anything listens."""
    done = here("serve", *arguments)
    assert done.status == 2
    assert text in done.err
