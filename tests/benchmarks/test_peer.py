"""The peer of the comparisons answers correctly, and the clients read all of it: without that the figures would mean nothing."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any
from urllib.parse import urlsplit

import pytest

from tests.benchmarks import clients
from tests.benchmarks.answers import OTHER_EVENTS, Bulk
from tests.benchmarks.peer import Peer

DELTAS, PACED_DELTAS = 5_000, 20  # enough for a frame of more than 64 KiB
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A peer with short answers."""
    with Peer(DELTAS, PACED_DELTAS) as running:
        yield running


def connect(url: str, authority: str) -> socket.socket:
    parts = urlsplit(url)
    sock = socket.create_connection(("127.0.0.1", parts.port or 0), 5)
    if parts.scheme == "http":
        return sock
    return ssl.create_default_context(cafile=authority).wrap_socket(sock, server_hostname="127.0.0.1")


def read_head(reader: IO[bytes]) -> list[bytes]:
    return list(iter(lambda: reader.readline().strip(), b""))


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame of less than 64 KiB."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | 126)) + len(payload).to_bytes(2, "big") + mask + masked


def read_frame(reader: IO[bytes]) -> tuple[int, bytes]:
    first, size = reader.read(2)
    if size > 125:
        size = int.from_bytes(reader.read({126: 2, 127: 8}[size]), "big")
    return first, reader.read(size)


def websocket_events(url: str, authority: str, model: str) -> list[Events]:
    """Two answers on one connection, as a raw client gets them, after a ping and before a close frame."""
    upgrade = (
        "GET /v1/responses HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    create = json.dumps({"type": "response.create", "model": model, "input": "Hi"}).encode()
    with connect(url, authority) as sock, sock.makefile("rb") as reader:
        sock.sendall(upgrade.encode() + client_frame(0x9, b"still there?"))
        status, *fields = read_head(reader)
        assert status.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in fields  # the example of RFC 6455
        assert read_frame(reader) == (0x8A, b"still there?")
        answers: list[Events] = []
        for _ in range(2):
            sock.sendall(client_frame(0x1, create))
            events: Events = []
            while not events or events[-1]["type"] != "response.completed":
                first, payload = read_frame(reader)
                assert first == 0x81, "a whole text frame was expected"
                events.append(json.loads(payload))
            answers.append(events)
        sock.sendall(client_frame(0x8, b"\x03\xe8"))
        assert (read_frame(reader), reader.read()) == ((0x88, b"\x03\xe8"), b"")
    return answers


def sse_events(url: str, authority: str, model: str) -> list[Events]:
    """Two answers on one connection, as a raw client gets them."""
    body = json.dumps({"model": model, "input": "Hi", "stream": True}).encode()
    request = b"POST /v1/responses HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    answers: list[Events] = []
    with connect(url, authority) as sock, sock.makefile("rb") as reader:
        for _ in range(2):
            sock.sendall(request)
            assert read_head(reader)[0] == b"HTTP/1.1 200 OK"
            text = b""
            while size := int(reader.readline(), 16):
                text += reader.read(size)
                assert reader.read(2) == b"\r\n"
            assert reader.readline() == b"\r\n"
            answers.append([sse_event(block) for block in text.decode().removesuffix("\n\n").split("\n\n")])
    return answers


def sse_event(block: str) -> dict[str, Any]:
    name, data = block.split("\n")
    event: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event


READERS = {"websocket": websocket_events, "sse": sse_events}


@pytest.mark.parametrize("scheme", ["plain", "tls"])
@pytest.mark.parametrize("protocol", READERS)
def test_the_bulk_answer_is_whole(peer: Peer, protocol: str, scheme: str) -> None:
    """Every event arrives, numbered without a gap, and the text of the end is what the deltas gave."""
    _, events = READERS[protocol](getattr(peer, scheme), peer.authority, "bulk")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert len(events) == DELTAS + OTHER_EVENTS
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert len(text) == peer.characters
    assert [events[-4]["text"], events[-3]["part"]["text"], events[-2]["item"]["content"][0]["text"]] == [text] * 3
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


@pytest.mark.parametrize("model", ["bulk", "paced"])
@pytest.mark.parametrize("protocol", READERS)
def test_each_answer_has_an_id_of_its_own(peer: Peer, protocol: str, model: str) -> None:
    """One id through all of an answer, and another one in the next."""
    answers = READERS[protocol](peer.plain, peer.authority, model)
    ids = [[event["response"]["id"] for event in events if "response" in event] for events in answers]
    assert [len(found) for found in ids] == [3, 3]
    assert len({*ids[0]}) == len({*ids[1]}) == 1 != len({*ids[0], *ids[1]})


@pytest.mark.parametrize("protocol", READERS)
def test_the_paced_answer_tells_when_it_was_sent(peer: Peer, protocol: str) -> None:
    """The text of a delta is a time on this machine's monotonic clock, later each time."""
    began = time.monotonic_ns()
    events = sum(READERS[protocol](peer.plain, peer.authority, "paced"), [])
    sent = [int(event["delta"]) for event in events if event["type"] == "response.output_text.delta"]
    assert len(sent) == 2 * PACED_DELTAS
    times = [began, *sent, time.monotonic_ns()]
    assert times == sorted(times)
    assert len(set(sent)) == len(sent)


def test_the_answer_has_the_size_that_is_reported() -> None:
    """Deltas of about 210 bytes, and a completed event of about 340 KB."""
    events = Bulk(20_000).events
    assert 200 < sum(map(len, events[4:-4])) / 20_000 < 220
    assert 330_000 < len(events[-1]) < 350_000


@pytest.mark.parametrize("protocol", READERS)
def test_the_provider_reads_every_event(peer: Peer, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's own client counts what the peer sent, in bulk and paced."""
    monkeypatch.setenv("SSL_CERT_FILE", peer.authority)
    client = clients.CLIENTS["pixir", protocol]
    found = clients.measure(client, peer.tls, 0.0)
    paced = clients.measure_paced(client, peer.tls)
    assert (found["events"], found["characters"]) == (DELTAS + OTHER_EVENTS, peer.characters)
    assert paced["events"] == PACED_DELTAS
    assert 0 < paced["p50"] <= paced["p99"]


@pytest.mark.parametrize("scheme", ["plain", "tls"])
def test_a_raw_socket_reads_every_event(peer: Peer, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left when a client does nothing: the same events, the same delays."""
    monkeypatch.setenv("SSL_CERT_FILE", peer.authority)
    client, url = clients.CLIENTS["raw", "websocket"], getattr(peer, scheme)
    assert clients.measure(client, url, 0.0)["events"] == DELTAS + OTHER_EVENTS
    paced = clients.measure_paced(client, url)
    assert paced["events"] == PACED_DELTAS and 0 < paced["p50"] <= paced["p99"]


@pytest.mark.parametrize("protocol", READERS)
def test_threads_read_every_event_and_share_a_batch(peer: Peer, protocol: str) -> None:
    """Eight at once, on one provider: each has its answers, and each request of the batch is answered once."""
    client = clients.CLIENTS["pixir", protocol]
    found = clients.measure_threads(client, peer.plain, 8, 0.0)
    assert (found["answers"], found["events"]) == (8, 8 * (DELTAS + OTHER_EVENTS))
    paced = clients.measure_paced_threads(client, peer.plain, 8)
    assert paced["events"] == 8 * PACED_DELTAS
    batch = clients.measure_batch(client, peer.plain, 8, 20)
    assert (batch["requests"], batch["characters"]) == (20, 20 * peer.characters)
    assert all(one["cpu"] > 0 < one["wall"] for one in (found, paced, batch))


def test_a_thread_that_fails_ends_the_run(peer: Peer) -> None:
    """With its own error, and not with that of those who waited for it."""
    client = replace(clients.CLIENTS["pixir", "sse"], text=lambda stream: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        clients.measure_batch(client, peer.plain, 4, 8)


def test_a_request_over_http_that_asks_for_no_stream_gets_the_response(peer: Peer) -> None:
    """The object that the last event of the streamed answer has, but for its id."""
    body = json.dumps({"model": "bulk", "input": "Hi"}).encode()
    request = b"POST /v1/responses HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with connect(peer.plain, peer.authority) as sock, sock.makefile("rb") as reader:
        sock.sendall(request)
        fields = dict(line.split(b": ") for line in read_head(reader)[1:])
        response = json.loads(reader.read(int(fields[b"content-length"])))
    streamed = sse_events(peer.plain, peer.authority, "bulk")[0][-1]["response"]
    assert response.pop("id") != streamed.pop("id")
    assert response == streamed


def test_the_peer_tells_what_it_used(peer: Peer) -> None:
    """Its processor time grows by work, and not by the asking."""
    before = peer.cpu()
    websocket_events(peer.plain, peer.authority, "bulk")
    assert before < peer.cpu() < before + 60


@pytest.mark.parametrize("deltas", [4, DELTAS])
def test_a_short_answer_is_one_packet(deltas: int) -> None:
    """A long one is not copied for that."""
    sent: list[bytes] = []
    Bulk(deltas).send_websocket(sent.append)
    assert len(sent) == (1 if deltas == 4 else 3)
