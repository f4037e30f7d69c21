"""Servers in processes of their own, and how a test speaks with them.

Rules kept here:

* A server is the leader of a session of its own: whatever it starts ends with it, and nothing else does.
* What it says goes to a file. Every wait has a deadline, and an error that quotes that file.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from pixir_sync.local import Delay, LocalServer, Pause, Step
from tests.support.tls import authority

__all__ = [
    "DEADLINE", "ROOT", "WARMED", "Answer", "Endless", "Process", "ask", "asks", "environment_of", "free_port", "in_thread",
    "local_server", "until",
]  # fmt: skip

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0  # to start a server, and to stop it, on a busy machine
WARMED = "at the import"  # what the sites ask while they are loaded

T = TypeVar("T")


def until(holds: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """What this gives, as soon as it is true. For what other processes do; looks fifty times a second."""
    end = time.monotonic() + deadline
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        time.sleep(0.02)
    return found


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run this in a daemon thread; what it gives or raises."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Process:
    """A program of this interpreter, as a context manager that leaves nothing behind."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], where: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                [sys.executable, "-W", "default::ResourceWarning", *arguments], cwd=where, env=dict(environment),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pid = self._popen.pid

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def assert_quiet(self) -> None:
        """It tells of no failure, and of no socket of ours that nobody closed."""
        assert not re.search(r"Traceback|unclosed <pixir_sync", self.said), self.said

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it has said this; the first place where it did."""

        def look() -> re.Match[str] | None:
            ended = self._popen.poll()
            found = re.search(pattern, self.said)
            assert found or ended is None, f"it ended with {ended}:\n{self.said}"
            return found

        try:
            return until(look, f"{pattern!r} said")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said}") from None

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Its exit status."""
        try:
            return self._popen.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {deadline:g} s:\n{self.said}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after this signal."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it and all that it started, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its session: nobody else's processes
        self._popen.wait(DEADLINE)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
        self.kill()


def local_server(way: str) -> LocalServer:
    """The model, by the name of a way to it: ``websocket``, ``http_sse``, each with ``-tls`` too."""
    return LocalServer(ssl_context=authority().server_context() if way.endswith("-tls") else None)


def environment_of(server: LocalServer, way: str = "websocket", **more: str) -> dict[str, str]:
    """The environment of a program that is to find this server, and this project's modules."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    transport, _, secure = way.partition("-")
    trusted = {"SSL_CERT_FILE": authority().ca_file()} if secure else {}
    return {
        **kept, **server.environment, "NO_PROXY": "*", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "SITE_TRANSPORT": transport, **trusted, **more,
    }  # fmt: skip


def free_port() -> int:
    """A port of loopback that is free now, for a server that cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Answer:
    """The answer to a form that was POSTed, its body still unread: ``status``, and ``pid``, who wrote it (0: it did not say)."""

    def __init__(self, port: int, path: str, **form: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
            self._connection.request("POST", path, urlencode(form), headers)
            self._response = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise
        self.status = self._response.status
        self.pid = int(self._response.headers.get("X-Pid", 0))

    def piece(self) -> str:
        """What is there of the body; waits for the first byte."""
        return self._response.read1().decode()

    def rest(self) -> str:
        """The rest of the body, to its proper end."""
        try:
            return self._response.read().decode()
        finally:
            self.leave()

    def leave(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()


def ask(port: int, path: str, **form: str) -> tuple[int, str, int]:
    """POST a form and read all of the answer: its status, its body, and who wrote it."""
    answer = Answer(port, path, **form)
    return answer.status, answer.rest(), answer.pid


class Endless:
    """A scenario that answers "endless" without an end, and every other text as the model does.

    Attributes:
        left: an event that the test sets once its client has left; until then there is one piece of an answer.
        ended: set when the answer has ended, which is when the caller has ended it.
    """

    def __init__(self) -> None:
        self.left, self.ended = threading.Event(), threading.Event()
        self._mine = asks("endless")

    def __call__(self, body: dict[str, Any]) -> Iterator[Step] | None:
        return self._steps() if self._mine(body) else None

    def _steps(self) -> Iterator[Step]:
        delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": "x"}
        try:
            yield {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
            yield delta
            yield Pause(self.left)
            while True:
                yield delta
                yield Delay(0.01)
        finally:
            self.ended.set()


def asks(text: str) -> Callable[[dict[str, Any]], bool]:
    """For ``server.fault(..., when=asks("this"))``: a request whose input ends with this text."""

    def when(body: dict[str, Any]) -> bool:
        given = body.get("input")
        return text in str(given[-1] if isinstance(given, list) and given else given)

    return when
