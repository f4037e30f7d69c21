"""The other side of the stress test: a server in a process of its own that answers every turn, and often in the worst way.

``python -m tests.support.stress_peer --seed 1 [--tls]`` prints where it listens as a line of JSON, serves until its input ends,
and prints what it saw as another.

Rules kept here:

* What goes wrong is decided by the seed, the turn's nonce and how often that nonce was asked for: the same turn of the same seed
  always meets the same fate, whatever the threads do.
* The answer to a turn names its nonce and a digest of the whole context that this server holds for it: a client that knows
  its own history knows every byte of the answer.
* A connection holds the context of its last completed response, and nothing else. Who continues from anything else, asks
  twice at a time, or breaks the framing has a defect, which is told at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import logging
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.support import events
from tests.support.tls import authority
from tests.support.ws_wire import BINARY, CLOSE, PING, PONG, TEXT, frame_bytes

__all__ = ["IDLE", "answer_to", "said"]

Json = dict[str, Any]
Held = tuple[str, list[list[str]]]  # a response's id, and the context after it

IDLE = 0.5
"""The idle limit of the clients, in seconds: a stall is longer."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CODES = (1000, 1001, 1011, 1012)
# What happens to an answer, and how often in a thousand.
FATES = {
    "whole": 720, "incomplete": 20, "failed": 10, "reset": 35, "fin": 35, "close": 45, "stall": 6, "limited": 20,
    "not_found": 20, "too_old": 15, "binary": 10, "slow": 30, "deaf": 4, "flood": 30,
}  # fmt: skip
# What happens after it, before the next one.
LATER = {"nothing": 860, "close": 50, "fin": 30, "reset": 30, "ping": 20, "too_old": 10}


def said(items: Sequence[Json]) -> list[list[str]]:
    """What a context says: role and text of every message."""
    return [[item["role"], item["content"] if isinstance(item["content"], str) else "".join(p["text"] for p in item["content"])]
            for item in items]  # fmt: skip


def answer_to(nonce: str, context: Sequence[Sequence[str]]) -> str:
    """The one right answer to the turn with this nonce."""
    digest = hashlib.sha256(json.dumps(context).encode()).hexdigest()[:12]
    length = random.Random(nonce).choice((0, 1, 3, 10, 40, 40, 400))
    return f"[{nonce} {digest}] " + " ".join(f"{nonce}/{at}" for at in range(length))


@dataclass
class Seen:
    """What the peer saw, to be told at the end."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)  # per nonce
    connections: int = 0
    open: int = 0
    ids: int = 0


class Cut(Exception):
    """The answer ends here, and its connection with it."""


class Conn:
    """One connection."""

    def __init__(self, seed: int, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seed, self.seen, self.reader, self.writer = seed, seen, reader, writer
        self.number = seen.connections = seen.connections + 1
        self.gentle = False
        self.creates = 0
        self.busy = self.sending = self.over = False
        self.owed = b""
        self.deaf = 0.0
        self.last: Held | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
            if "upgrade" in headers:
                self.gentle = " /auto" in lines[0]
                return await self._upgraded(headers)
            await self._over_http(await self.reader.readexactly(int(headers.get("content-length", 0))))

    async def _over_http(self, raw: bytes) -> None:
        create = json.loads(raw)
        nonce, context = self._asked(create, [])
        self.seen.counts["http"] += 1
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in self._events(random.Random(nonce), nonce, context):
            data = b"data: %s\n\n" % json.dumps(event).encode()
            self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await self.writer.drain()
        self.writer.write(b"0\r\n\r\n")

    # The WebSocket.

    async def _upgraded(self, headers: dict[str, str]) -> None:
        rng = random.Random(f"{self.seed} upgrade {self.number}")
        fate = rng.random()
        if not self.gentle and fate < 0.03:
            self.seen.counts["upgrade refused" if fate < 0.015 else "upgrade cut"] += 1
            if fate < 0.015:
                status = rng.choice((b"503 No", b"500 No", b"429 Wait"))
                self.writer.write(b"HTTP/1.1 %s\r\nretry-after: 0.05\r\ncontent-length: 2\r\n\r\n{}" % status)
            return
        proof = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + _GUID).digest())
        yes = b"HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
        self.writer.write(yes % proof)
        self.seen.counts["upgrades"] += 1
        while True:
            if self.deaf:
                await asyncio.sleep(self.deaf)
                self.deaf = 0.0
            opcode, payload = await self._frame()
            if opcode == TEXT:
                self._create(json.loads(payload))
            elif opcode == PING:
                self.owed += frame_bytes(PONG, payload)
                if not self.sending:  # not in the middle of another frame
                    self._pay()
            elif opcode == PONG:
                self.seen.counts["pongs"] += 1
            elif opcode == CLOSE:
                self.seen.counts["closed by the client"] += 1
                return

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        if not second & 128 or first & 0xF0 != 0x80 or first & 15 not in (TEXT, CLOSE, PING, PONG) or size > 16_000_000:
            self.seen.defects.append(f"connection {self.number}: a frame that begins with {first:02x} {second:02x}")
            raise Cut
        mask = await self.reader.readexactly(4)
        data = await self.reader.readexactly(size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        return first & 15, (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")

    def _create(self, create: Json) -> None:
        if self.over:
            return  # it crossed our own end
        if self.busy:
            self.seen.defects.append(f"connection {self.number}: a create came before the end of the answer")
            raise Cut
        self.busy = True
        self.creates += 1
        previous, last, self.last = create.get("previous_response_id"), self.last, None
        if previous is not None and (last is None or last[0] != previous):
            self.seen.defects.append(f"connection {self.number}: continued from {previous}, holds {last and last[0]}")
            last = None
        nonce, context = self._asked(create, last[1] if previous is not None and last is not None else [])
        self.seen.counts["delta" if previous is not None else "full"] += 1
        rng = random.Random(f"{self.seed} {nonce} {self.seen.asked[nonce]}")
        self._start(partial(self._answer, rng, nonce, context, continued=previous is not None))

    def _asked(self, create: Json, context: list[list[str]]) -> tuple[str, list[list[str]]]:
        whole = context + said(create["input"])
        nonce = whole[-1][1].split()[0]
        self.seen.asked[nonce] += 1
        return nonce, whole

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (Cut, OSError):
            self.writer.transport.abort()

    # One answer.

    def _events(self, rng: random.Random, nonce: str, context: list[list[str]]) -> list[Json]:
        text = answer_to(nonce, context)
        cuts = sorted(rng.randrange(len(text)) for _ in range(rng.choice((0, 0, 1, 3, 8, 30))))
        deltas = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        self.seen.ids += 1
        name = f"resp_{self.seen.ids}"
        whole = events.text_response(*deltas, id=name, item_id=f"msg_{name}")
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            whole.insert(rng.randrange(len(whole)), {"type": rng.choice(("keepalive", "codex.rate_limits", "response.news"))})
        return whole

    async def _answer(self, rng: random.Random, nonce: str, context: list[list[str]], *, continued: bool) -> None:
        fate = rng.choices(list(FATES), list(FATES.values()))[0]
        if (fate == "not_found" and not continued) or (self.gentle and self.creates == 1):
            fate = "whole"
        self.seen.counts[fate] += 1
        if fate in ("limited", "not_found", "too_old"):
            await self._refuse(fate)
            return
        whole = self._events(rng, nonce, context)
        if fate == "failed":
            whole[-1] = events.failed(id=whole[-1]["response"]["id"])
        elif fate == "incomplete":
            whole[-1] = events.incomplete(id=whole[-1]["response"]["id"], output=whole[-1]["response"]["output"])
        frames = [self._worded(rng, json.dumps(event).encode(), fate == "flood") for event in whole]
        if fate in ("whole", "incomplete", "failed", "slow", "deaf", "flood"):
            kept = (whole[-1]["response"]["id"], [*context, ["assistant", answer_to(nonce, context)]])
            await self._send(rng, frames, slow=fate == "slow", kept=None if fate in ("incomplete", "failed") else kept)
            self.deaf = 4 * IDLE if fate == "deaf" else 0.0
            await self._later(rng)
        else:
            await self._spoilt(rng, fate, frames)

    @staticmethod
    def _worded(rng: random.Random, data: bytes, flood: bool) -> bytes:
        pings = b"".join(frame_bytes(PING, b"%d" % n) for n in range(40)) if flood and rng.random() < 0.2 else b""
        if rng.random() > 0.05:
            return pings + frame_bytes(TEXT, data)
        at = rng.randrange(len(data))  # in two fragments, and a ping between them
        return pings + frame_bytes(TEXT, data[:at], fin=False) + frame_bytes(PING, b"between") + frame_bytes(0, data[at:])

    async def _refuse(self, fate: str) -> None:
        error = {
            "limited": events.error("rate_limit_exceeded", "Wait.", status=429, headers={"retry-after": "0.02"}),
            "not_found": events.error("previous_response_not_found", "Gone.", status=400),
            "too_old": events.error("websocket_connection_limit_reached", "Too old.", status=400),
        }[fate]
        self.busy = False
        self.writer.write(frame_bytes(TEXT, json.dumps(error).encode()))
        await self.writer.drain()

    async def _send(self, rng: random.Random, frames: list[bytes], *, slow: bool, kept: Held | None) -> None:
        """The whole answer, in pieces that know nothing of frames."""
        self.sending = True
        for piece in _pieces(rng, b"".join(frames[:-1])):
            self.writer.write(piece)
            await self.writer.drain()
            if rng.random() < (0.5 if slow else 0.02):
                await asyncio.sleep(rng.random() * (IDLE / 5 if slow else 0.005))
        self._pay()
        self.busy, self.sending, self.last = False, False, kept
        self.writer.write(frames[-1])
        await self.writer.drain()

    async def _spoilt(self, rng: random.Random, fate: str, frames: list[bytes]) -> None:
        """The answer up to somewhere before its end, and then this."""
        if fate in ("close", "binary"):
            before = b"".join(frames[: rng.randrange(len(frames))])
        else:
            before = b"".join(frames)[: rng.randrange(sum(map(len, frames)))]
        if rng.random() < 0.3:
            before = b""
        self.sending = True
        for piece in _pieces(rng, before):
            self.writer.write(piece)
            await self.writer.drain()
        if fate == "stall":
            await asyncio.sleep(4 * IDLE)
            raise Cut
        if fate == "binary":
            self.writer.write(frame_bytes(BINARY, b"\0\1"))
        await self._end(fate, rng)

    def _pay(self) -> None:
        """Send the pongs that are due."""
        self.writer.write(self.owed)
        self.owed = b""

    async def _later(self, rng: random.Random) -> None:
        mine, fate = self.creates, rng.choices(list(LATER), list(LATER.values()))[0]
        if fate == "nothing":
            return
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.05)
        if self.creates != mine:
            return  # the next turn has begun
        self.seen.counts[f"later {fate}"] += 1
        if fate == "ping":
            self.writer.write(frame_bytes(PING, b"well?"))
            return
        self.over = True
        if fate == "too_old":
            await self._refuse("too_old")
        else:
            await self._end(fate, rng)

    async def _end(self, fate: str, rng: random.Random) -> None:
        if fate == "close":
            self.writer.write(frame_bytes(CLOSE, struct.pack("!H", rng.choice(_CODES)) + b"bye"))
        elif fate == "fin":
            self.writer.close()
        elif fate == "reset":
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise Cut


def _pieces(rng: random.Random, data: bytes) -> list[bytes]:
    most = rng.choice((7, 100, 1_000, 1 << 20)) if len(data) < 20_000 else 1 << 20
    pieces, at = [], 0
    while at < len(data):
        size = rng.randint(1, most)
        pieces.append(data[at : at + size])
        at += size
    return pieces


async def _serve(seed: int, tls: bool) -> None:
    seen = Seen()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = Conn(seed, seen, reader, writer)
        seen.open += 1
        try:
            await conn.serve()
        except (Cut, OSError, asyncio.IncompleteReadError):
            pass
        except Exception as error:
            seen.defects.append(f"connection {conn.number}: {error!r}")
        finally:
            for task in list(conn.tasks):
                task.cancel()
            seen.open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    context = authority().server_context() if tls else None
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context, backlog=512)
    port, ca_file = server.sockets[0].getsockname()[1], authority().ca_file() if tls else None
    print(json.dumps({"port": port, "ca_file": ca_file}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for _ in range(100):  # whatever the client had is to be closed by now, or soon
        if not seen.open:
            break
        await asyncio.sleep(0.05)
    told = {"counts": seen.counts, "defects": seen.defects, "connections": seen.connections, "open": seen.open}
    print(json.dumps(told), flush=True)
    server.close()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    given = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it warns of each write to a client that has gone
    asyncio.run(_serve(given.seed, given.tls))


if __name__ == "__main__":
    main()
