"""What no server should say, through the whole stack: ``python -m tests.support.fuzz --cases 100000 [--seed N]``.

A case is a real conversation of the local server's engine, mutated as events, as server-sent bytes or as frames, said by a raw
server to a `Provider`. What comes of it is a `Result` or one `PixirError`, in time; anything else is a finding.

Rules kept here:

* A case is its seed: the same seed is the same bytes. A finding names it.
* The server says its bytes and ends the connection, so that nothing can be waited for: a case that takes long hangs.
* Nothing is tried again: one case, one attempt.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import socket
import struct
import threading
import time
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from hashlib import sha1
from typing import Any, NamedTuple

from pixir_sync import Network, PixirError, Provider, RetryPolicy
from pixir_sync.local.answers import (
    Answer,
    CustomCall,
    Failed,
    FunctionCall,
    HostedCall,
    Incomplete,
    Reasoning,
    Refusal,
    Text,
)
from pixir_sync.local.engine import Engine

__all__ = ["Case", "Fuzz", "case", "main"]

Json = dict[str, Any]
SLOW = 3.0
"""Seconds after which a case is taken for hanging; the limits of the provider are longer."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
_CITED = {"type": "url_citation", "url": "https://a.test", "title": "A", "start_index": 0, "end_index": 1}
_ANSWERS = [
    Answer("Hello there"),
    Answer(Text("Hel", "lo", annotations=[_CITED])),
    Answer(Reasoning("Think.", "Deeply.", encrypted=True), "So"),
    Answer(FunctionCall("f", {"a": [1, {"b": None}]}), CustomCall("c", "free")),
    Answer("So:", FunctionCall("g", "not json")),
    Answer(Refusal("No."), HostedCall("web_search_call"), HostedCall("code_interpreter_call")),
    Answer(HostedCall("image_generation_call"), "Look"),
    Answer("cut", end=Incomplete("content_filter")),
    Answer("bad", end=Failed()),
]  # fmt: skip
_ODD: list[Any] = [
    None, True, False, 0, -1, 1 << 70, 1e308, "", " ", "x" * 5000, "\u0000", "\ud83d", [], {}, [[]], [None], {"type": 5},
    "response.completed", "response.output_text.delta", {"id": {}}, "completed", "resp_1", "5",
]  # fmt: skip
_JUNK = [
    b"", b"\xff\xfe", b"{", b"}" * 50, b"null", b"[]", b'"text"', b"\x00" * 9, b"data:", b"\r", b"\n\n", b"\xef\xbb\xbf",
    b"[DONE]",
]  # fmt: skip


class Case(NamedTuple):
    """One case: the transport, and the bytes that the server says behind the head of its answer."""

    transport: str
    said: bytes


def case(seed: int) -> Case:
    """The case of this seed."""
    chance = random.Random(seed)
    transport = chance.choice(["websocket", "http_sse"])
    events = list(Engine(salt=str(seed % 7)).respond({"model": "m", "input": "Hi"}, None, chance.choice(_ANSWERS)))
    level = chance.random()
    if level < 0.7:
        events = _mutated(events, chance)
    encode = _frame if transport == "websocket" else _sse
    said = b"".join(encode(event, chance) for event in events)
    if level > 0.5:
        said = _broken(said, chance)
    return Case(transport, said)


def _mutated(events: list[Json], chance: random.Random) -> list[Json]:
    """The events with some left out, doubled, exchanged, or with other values in them."""
    found: list[Any] = json.loads(json.dumps(events))
    for _ in range(chance.randint(1, 4)):
        at, other = chance.randrange(len(found)), chance.randrange(len(found))
        match chance.randrange(6):
            case 0 if len(found) > 1:
                del found[at]
            case 1:
                found.insert(other, found[at])
            case 2:
                found[at], found[other] = found[other], found[at]
            case _:
                _poison(found[at], chance)
    return found


def _poison(tree: Any, chance: random.Random) -> None:
    """Put something odd somewhere into this tree, or take something out of it."""
    while True:
        if isinstance(tree, dict) and tree:
            key: Any = chance.choice(list(tree))
        elif isinstance(tree, list) and tree:
            key = chance.randrange(len(tree))
        else:
            return
        if isinstance(tree[key], dict | list) and tree[key] and chance.random() < 0.6:
            tree = tree[key]
            continue
        if chance.random() < 0.2:
            del tree[key]
        else:
            tree[key] = copy.deepcopy(chance.choice(_ODD))  # not the one that the next case may put something into
        return


def _broken(said: bytes, chance: random.Random) -> bytes:
    """The bytes with some changed, left out, doubled or put in; or cut off."""
    data = bytearray(said)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randint(1, 40)]
            case 2:
                data[at:at] = data[at : at + chance.randint(1, 200)]
            case 3:
                data[at:at] = chance.choice(_JUNK)
            case 4:
                del data[at:]
    return bytes(data)


def _sse(event: Json, chance: random.Random) -> bytes:
    end = chance.choice([b"\n", b"\r\n", b"\n"])
    return b"event: %s%sdata: %s%s%s" % (str(event.get("type")).encode("utf-8", "replace"), end, _dumped(event), end, end)


def _dumped(event: Any) -> bytes:
    return json.dumps(event).encode("utf-8", "surrogatepass")


def _frame(event: Json, chance: random.Random) -> bytes:
    payload = _dumped(event)
    opcode = 0x81 if chance.random() < 0.97 else chance.choice([0x01, 0x80, 0x82, 0x88, 0x89, 0x8A, 0x83, 0xC1])
    if len(payload) < 126:
        return struct.pack("!BB", opcode, len(payload)) + payload
    return struct.pack("!BBH", opcode, 126, len(payload)) + payload if len(payload) < 65536 else _long(opcode, payload)


def _long(opcode: int, payload: bytes) -> bytes:
    return struct.pack("!BBQ", opcode, 127, len(payload)) + payload


class Fuzz:
    """A raw server and two providers for it, as a context manager. `run` plays a case."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.findings: list[str] = []
        self.slowest = 0.0
        self._said = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="fuzz-server", daemon=True)
        base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._providers = {
            transport: Provider(
                model="m", api_key="k", base_url=base_url, transport=transport, timeouts=10, network=Network(trust_env=False),
                retry=RetryPolicy(max_retries=0, replay="never"),
            )
            for transport in ("websocket", "http_sse")
        }  # fmt: skip

    def __enter__(self) -> Fuzz:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for provider in self._providers.values():
            provider.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def run(self, seed: int) -> str:
        """Play one case; the kind of its end. What is none is a finding, and raised by nobody."""
        played = case(seed)
        self._said = played.said
        began = time.monotonic()
        try:
            end = self._played(self._providers[played.transport])
        except Exception as error:
            end = f"FINDING {type(error).__name__}: {error}"[:300]
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        if took > SLOW:
            end = f"FINDING it took {took:.1f} s, then {end}"
        if end.startswith("FINDING"):
            self.findings.append(f"seed {seed}, {played.transport}: {end}")
        self.ends[end.split()[0]] += 1
        return end

    @staticmethod
    def _played(provider: Provider) -> str:
        stream = provider.stream("Hi")
        try:
            for event in stream:
                assert type(event.text) is str and type(event.type) is str, "an event of the wrong shape"
            result = stream.result()
            json.dumps(result.to_dict(), default=repr)
            return str(result.finish_reason)
        except PixirError as error:
            assert error.partial is not None
            json.dumps(error.to_dict())
            assert repr(error) and str(error)
            return error.kind

    def _serve(self) -> None:
        last = None  # closed when the next one comes: at once, what is unread would reset it and take what was said with it
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break  # the end
            finally:
                if last is not None:
                    last.close()
            last = sock
            with suppress(OSError):  # the client has had enough: its good right here
                sock.settimeout(5)
                self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (part := sock.recv(65536)):
                return
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"upgrade" in lines.get(b"connection", b""):
            name = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
            token = b64encode(sha1(name.split(b": ")[1] + _GUID).digest())
            sock.sendall(_SWITCHING + b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n")
            sock.recv(65536)  # the request, which is short
            sock.sendall(self._said)
        else:
            while len(body) < int(lines[b"content-length"]):
                body += sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + self._said)
        sock.shutdown(socket.SHUT_WR)


def main() -> None:
    """Play many cases and report."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 40))
    given = options.parse_args()
    began = time.monotonic()
    with Fuzz() as fuzz:
        for seed in range(given.seed, given.seed + given.cases):
            fuzz.run(seed)
    took = time.monotonic() - began
    last = given.seed + given.cases - 1
    print(f"seeds {given.seed} to {last}: {given.cases:,} cases in {took:.0f} s, slowest {fuzz.slowest:.2f} s")
    print(", ".join(f"{kind} {count:,}" for kind, count in fuzz.ends.most_common()))
    for finding in fuzz.findings[:50]:
        print(finding)
    raise SystemExit(bool(fuzz.findings))


if __name__ == "__main__":
    main()
