"""How many clients the local server bears: ``python -m tests.benchmarks.crowd``; needs the extra test.

Rules kept here:

* The server is a process of its own, so that its memory and its processor time are its own.
* Neither side is pixir_sync's client: raw WebSockets by `websockets`, HTTP by aiohttp.
* First all connections are idle for a few of the server's pings, then each takes a turn; then the streams run, all begun
  before the first may end. Every answer is compared with what it must be: anything else is an error, and none is allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

__all__ = ["Figures", "main", "measure"]

ROOT = Path(__file__).parents[2]
_KEY = {"Authorization": "Bearer local-key"}
_PING = 0.5  # seconds between two of the server's pings
_WORDS = 200
_TEXT = " ".join(f"word{number}" for number in range(_WORDS))
_SAID = f"Heard: {_TEXT} (context: 1)"
_DEADLINE = 120.0
_AT_ONCE = 50  # upgrades in flight


class Figures(NamedTuple):
    """What one run came to. Times in seconds, memory in KB."""

    idle: int
    open_seconds: float
    kb_per_connection: float
    idle_cpu: float
    turn_seconds: float
    streams: int
    events: int
    stream_seconds: float
    stream_cpu: float


def main() -> None:
    """Run, and print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--idle", type=int, default=1000, help="connections that are idle")
    options.add_argument("--streams", type=int, default=200, help="streams at once, half of them over HTTP")
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve:
        _serve()
        return
    found = measure(given.idle, given.streams)
    print(f"| {found.idle:,} connections: opened in | {found.open_seconds:.2f} s |")
    print("| --- | ---: |")
    print(f"| memory of the server for each | {found.kb_per_connection:.0f} KB |")
    print(f"| its CPU while they are idle, pinged every {_PING} s | {found.idle_cpu * 100:.0f} % of a core |")
    print(f"| a turn on each, all at once | {found.turn_seconds:.2f} s |")
    print(f"| {found.streams} streams at once, {found.events:,} events | {found.stream_seconds:.2f} s |")
    print(f"| CPU of the server for one event | {found.stream_cpu / found.events * 1e6:.0f} us |")


def measure(idle: int, streams: int) -> Figures:
    """One run. Raises AssertionError at the first thing that is not as it must be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = [sys.executable, "-m", "tests.benchmarks.crowd", "--serve"]
    try:
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None and server.stdout is not None
            try:
                base_url = server.stdout.readline().decode().strip()
                return asyncio.run(asyncio.wait_for(_run(server.pid, base_url, idle, streams), _DEADLINE))
            finally:
                server.stdin.close()  # which ends it
                assert server.wait(_DEADLINE) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _serve() -> None:
    """The server's process: runs until its input ends. What failed inside it is its exit status."""
    from pixir_sync.local import LocalServer

    with LocalServer(ping_interval=_PING) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()


async def _run(pid: int, base_url: str, idle: int, streams: int) -> Figures:
    address = base_url.replace("http", "ws", 1) + "/responses"
    async with AsyncExitStack() as stack:
        before, began = _memory(pid), time.monotonic()
        gate = asyncio.Semaphore(_AT_ONCE)
        sockets = await asyncio.gather(*(_opened(stack, gate, address) for _ in range(idle)))
        opened, memory = time.monotonic() - began, _memory(pid) - before
        cpu, quiet = _cpu(pid), 4 * _PING
        await asyncio.sleep(quiet)
        idle_cpu = (_cpu(pid) - cpu) / quiet
        began = time.monotonic()
        said = await asyncio.gather(*(_turn(socket, f"from {number}") for number, socket in enumerate(sockets)))
        turned = time.monotonic() - began
        assert [text for text, _ in said] == [f"Heard: from {number} (context: 1)" for number in range(idle)]
        client = await stack.enter_async_context(
            aiohttp.ClientSession(headers=_KEY, connector=aiohttp.TCPConnector(limit=0))
        )
        cpu, began = _cpu(pid), time.monotonic()
        half = streams // 2
        told = await asyncio.gather(
            *(_turn(socket, _TEXT) for socket in sockets[:half]),
            *(_posted(client, base_url, _TEXT) for _ in range(streams - half)),
        )
        assert {text for text, _ in told} == {_SAID} and len(told) == streams
        took, spent = time.monotonic() - began, _cpu(pid) - cpu
    events = sum(count for _, count in told)
    return Figures(idle, opened, memory / idle, idle_cpu, turned, streams, events, took, spent)


async def _opened(stack: AsyncExitStack, gate: asyncio.Semaphore, address: str) -> ClientConnection:
    async with gate:
        return await stack.enter_async_context(
            connect(address, additional_headers=_KEY, compression=None, ping_interval=None, proxy=None)
        )


async def _turn(socket: ClientConnection, text: str) -> tuple[str, int]:
    """The text that answers, and the number of events."""
    await socket.send(json.dumps({"type": "response.create", **_body(text)}))
    deltas, count = [], 0
    async for frame in socket:
        event, count = json.loads(frame), count + 1
        deltas.append(event.get("delta", ""))
        if event["type"] == "response.completed":
            return "".join(deltas), count
    raise AssertionError("the server closed a connection")


async def _posted(client: aiohttp.ClientSession, base_url: str, text: str) -> tuple[str, int]:
    deltas, count, last = [], 0, ""
    async with client.post(f"{base_url}/responses", json={**_body(text), "stream": True}) as answer:
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data: "):
                event, count = json.loads(line[6:]), count + 1
                deltas.append(event.get("delta", ""))
                last = event["type"]
    assert last == "response.completed"
    return "".join(deltas), count


def _body(text: str) -> dict[str, Any]:
    return {"model": "local-model", "input": text, "store": False}


def _memory(pid: int) -> float:
    """The resident memory of a process, in KB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise AssertionError("no VmRSS")


def _cpu(pid: int) -> float:
    """The processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
