"""A local server in a process of its own, for tests that count: the descriptors, threads and memory here are the client's alone.

``python -m tests.support.own_process [--tls]`` prints where it listens as a line of JSON, and answers each line of its input with
another; it ends with its input.

Rules kept here:

* What a request is about decides what becomes of it: the first word of its last user text (see `FATES`). The model answers
  everything else.
* A socket counts as open until the client has ended it, not until this process has seen that: whenever one is accepted, the
  system is asked about all the others. So `peak` is never more than what the client had at once.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pixir_sync.local import LocalServer, faults
from tests.support.tls import authority

if TYPE_CHECKING:
    import asyncio

    from aiohttp.web_protocol import RequestHandler

__all__ = ["FATES", "ServerProcess"]

_ROOT = Path(__file__).parents[2]
_ESTABLISHED = 1  # of Linux' TCP states

FATES: dict[str, faults.Fault] = {
    "mute": faults.Stall(after=0),  # no event comes
    "half": faults.Stall(after=6),  # the first word of the answer comes, and no more
    "fail": faults.Refuse(status=400, code="invalid_prompt", message="No.", shape="failed", after=2),
    "lose": faults.Drop(after=6),
    "wait": faults.Refuse(status=429, code="rate_limit_exceeded", message="Later.", headers={"retry-after": "60"}),
}  # fmt: skip


class ServerProcess:
    """The process, as a context manager; `base_url` and `api_key` are a provider's options. For one thread."""

    def __init__(self, *, tls: bool = False) -> None:
        command = [sys.executable, "-m", "tests.support.own_process", *(["--tls"] if tls else [])]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            told = self._line()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.base_url: str = told["base_url"]
        self.api_key: str = told["api_key"]
        self.ca_file: str | None = told["ca_file"]

    def ask(self) -> dict[str, Any]:
        """How it stands: ``open`` (sockets now), ``peak``, ``accepted``, ``upgrades``, ``requests``, ``deltas``, ``bytes``."""
        assert self._process.stdin is not None
        self._process.stdin.write("how\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # the test's own limit bounds it
        assert line, "the server's process ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
        assert error is not None or self._process.returncode == 0, "the server failed"


class _Sockets:
    """Those that clients have open, told by the system."""

    def __init__(self) -> None:
        self.made: dict[Any, socket.socket] = {}
        self.peak = 0

    @property
    def open(self) -> int:
        return sum(_established(sock) for sock in list(self.made.values()))

    def watch(self) -> None:
        """Be told of every connection of the server that this process runs."""
        from pixir_sync.local import front

        sockets = self

        class Counting(front.Front):
            def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
                super().connection_made(handler, transport)
                sockets.made[handler] = transport.get_extra_info("socket")
                sockets.peak = max(sockets.peak, sockets.open)

            def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
                sockets.made.pop(handler, None)
                super().connection_lost(handler, exc)

        vars(front)["Front"] = Counting  # which the server looks up there when it starts


def _established(sock: socket.socket) -> bool:
    with suppress(OSError):
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
    return False


def _first_word(body: dict[str, Any]) -> str:
    last = body["input"][-1] if body.get("input") else {}
    content = last.get("content", "") if isinstance(last, dict) else ""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return text.partition(" ")[0]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tls", action="store_true")
    sockets = _Sockets()
    sockets.watch()
    with ExitStack() as stack:
        tls = options.parse_args().tls
        context = authority().server_context() if tls else None
        server = stack.enter_context(LocalServer(ssl_context=context, ping_interval=None))
        for word, fault in FATES.items():
            stack.enter_context(server.fault(fault, when=lambda body, word=word: _first_word(body) == word, required=False))  # type: ignore[misc]
        bundle = authority().ca_file() if tls else None
        print(json.dumps({"base_url": server.base_url, "api_key": server.api_key, "ca_file": bundle}), flush=True)
        for _ in sys.stdin:
            found = list(server.requests)
            print(json.dumps({
                "open": sockets.open, "peak": sockets.peak, "accepted": server.connections, "upgrades": len(server.upgrades),
                "requests": len(found), "deltas": sum(one.is_continuation for one in found),
                "bytes": sum(one.raw + (6 if one.raw < 126 else 8) for one in found),  # as masked frames
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
