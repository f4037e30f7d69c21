"""Fixtures of the command line's tests."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixir_sync.cli import main
from pixir_sync.local import LocalServer
from tests.cli.doctor_support import Diagnose, Report, read
from tests.cli.support import Done, ended, environment, start
from tests.support.tls import authority


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> Iterator[None]:
    """Let the commands be interrupted, also where the tests run in the background of a shell, which ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """The local server."""
    with LocalServer() as running:
        yield running


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A clean environment with the local server's key."""
    return environment(tmp_path, OPENAI_API_KEY="local-key")


@pytest.fixture
def keyless(tmp_path: Path) -> dict[str, str]:
    """A clean environment without a key."""
    return environment(tmp_path)


Command = Callable[..., Done]


@pytest.fixture
def command(env: dict[str, str]) -> Command:
    """Run the real command in a process of its own, its output in pipes: ``command("ask", "hi", stdin="")``."""

    def run(*arguments: str, stdin: str = "", **given: str) -> Done:
        return ended(start({**env, **given}, *arguments), stdin)

    return run


@pytest.fixture
def here(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process, its output captured: as `command`, and quick."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "PIXIR_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", env["HOME"])

    def run(*arguments: str, stdin: str = "", key: str | None = "local-key") -> Done:
        if key is None:
            monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        else:
            monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = main(arguments)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def diagnose(here: Command) -> Diagnose:
    """Run ``doctor --json`` here against a base URL, with limits that a busy machine keeps; its report."""

    def run(url: str, *arguments: str, key: str | None = "local-key", timeout: float = 5.0) -> Report:
        return read(here("doctor", "--json", "--base-url", url, "--timeout", str(timeout), *arguments, key=key))

    return run


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' authority is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", authority().ca_file())
