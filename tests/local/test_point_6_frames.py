"""Section 8, point 6: pings both ways, 1011 and 1009, no cap on the server's own frames; and the switch for compression."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator

import pytest

from pixir_sync.local import Answer, Close, LocalServer, Pause, Step, Text
from tests.local.helpers import text
from tests.local.raw import Json, connect, kinds, mute
from tests.support.ws_wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

PAYLOADS = [b"", b"hello", "grüße".encode(), bytes(range(125))]
LIMIT = 1000
SERVER_LIMIT = 16 * 1024 * 1024
BIG = 5 * 1024 * 1024
SOON = 0.05
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_ping_is_answered_with_its_payload(server: LocalServer, payload: bytes) -> None:
    """A pong echoes the ping, byte for byte, on an idle connection."""
    with mute(server) as client:
        client.send(PING, payload)
        frame = client.frame()
    assert (frame.opcode, frame.payload, frame.fin, frame.masked) == (PONG, payload, True, False)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_ping_is_answered_while_a_turn_runs(server: LocalServer, payload: bytes) -> None:
    """Also while an answer stands still, before its first event or behind it; the answer then goes on."""
    before, between = Pause(), Pause()
    server.scenario = lambda _: [before, {"type": "x"}, between, Answer("done")]
    with mute(server) as client:
        client.create()
        for pause in (before, between):
            assert pause.reached.wait(5)
            client.send(PING, payload)
            frames = client.until(PONG)
            assert frames[-1].payload == payload
            pause.event.set()
        *_, last = (json.loads(frame.payload) for frame in client.until(TEXT))
        assert last["type"] == "response.created"


def test_many_pings_are_answered_in_order(server: LocalServer) -> None:
    """A hundred pings sent at once get a hundred pongs, in their order, between the frames of an answer."""
    with mute(server) as client:
        client.create("word " * 300)
        for number in range(100):
            client.send(PING, b"%d" % number)
        pongs = [client.until(PONG)[-1].payload for _ in range(100)]
    assert pongs == [b"%d" % number for number in range(100)]


def test_the_server_pings() -> None:
    """Every ping_interval a ping comes, idle too; a client that answers each is kept."""
    with LocalServer(ping_interval=SOON, ping_timeout=5.0) as server, mute(server) as client:
        for _ in range(10):
            ping = client.until(PING)[-1]
            client.send(PONG, ping.payload)
        client.create("hi", generate=False)
        events = [json.loads(client.until(TEXT)[-1].payload) for _ in range(2)]
        assert kinds(events) == ["created", "completed"]


def test_a_client_that_answers_lives_on(server: LocalServer) -> None:
    """A decent client, which answers pings by itself, outlives many timeouts on one connection, idle and in a turn."""
    pause = Pause()
    with LocalServer(ping_interval=SOON, ping_timeout=1.0) as quick, connect(quick) as client:
        quick.scenario = lambda _: [pause, Answer("done")]
        client.create()
        assert pause.reached.wait(5)
        with pytest.raises(TimeoutError):
            client.receive(1.5)
        pause.event.set()
        assert text(client.until_terminal()[-1]["response"]) == "done"


def test_a_mute_client_is_closed_while_it_is_idle() -> None:
    """A ping that is not answered within ping_timeout closes the connection with 1011, and the TCP connection ends."""
    with LocalServer(ping_interval=SOON, ping_timeout=SOON) as server, mute(server) as client:
        assert client.until(PING)
        assert client.closed() == 1011
        client.send(CLOSE, b"\x03\xf3")
        assert client.sock.recv(1) == b""  # no second close frame, nothing else


def test_a_mute_client_is_closed_after_a_turn() -> None:
    """A connection that has served is watched as well as a fresh one."""
    with LocalServer(ping_interval=0.3, ping_timeout=SOON) as server, mute(server) as client:
        client.create("hi", generate=False)
        frames = client.until(CLOSE)
    assert [frame.opcode for frame in frames] == [TEXT, TEXT, PING, CLOSE] and frames[-1].payload[:2] == b"\x03\xf3"


def test_a_mute_client_is_closed_while_an_answer_streams() -> None:
    """A turn that runs does not keep a dead peer alive: 1011 comes in the middle of it."""
    pause = Pause()
    steps: list[Step] = [{"type": "x"}, pause, {"type": "y"}]
    with LocalServer(ping_interval=SOON, ping_timeout=SOON, scenario=lambda _: steps) as server:
        with mute(server) as client:
            client.create()
            frames = client.until(CLOSE)
        texts = [json.loads(frame.payload) for frame in frames if frame.opcode == TEXT]
    assert texts == [{"type": "x"}] and frames[-1].payload[:2] == b"\x03\xf3"
    assert any(frame.opcode == PING for frame in frames)


def test_a_frame_is_no_pong() -> None:
    """A client that goes on sending requests but answers no ping is closed too: only a pong counts."""
    with LocalServer(ping_interval=SOON, ping_timeout=0.5) as server, mute(server) as client:
        client.until(PING)
        client.create("hi", generate=False)
        assert client.closed() == 1011


@pytest.mark.parametrize("filler", ["x", "ü", "👍"])
def test_a_frame_at_the_limit_is_taken_and_one_above_is_not(filler: str) -> None:
    """Exactly frame_limit bytes (not characters) are served; one byte more is closed with 1009 and not recorded."""
    with LocalServer(frame_limit=LIMIT) as server:
        with connect(server) as client:
            client.send(sized(LIMIT, filler))
            assert client.until_terminal()[-1]["type"] == "response.completed"
            client.send(sized(LIMIT + 1, filler))
            ended = client.ended()
            assert ended is not None and ended[0] == 1009
        assert [recorded.raw for recorded in server.requests] == [LIMIT]
        with connect(server) as client:
            client.final("hi", generate=False)


def sized(size: int, filler: str = "x") -> str:
    """A ``response.create`` of exactly so many bytes."""
    event: Json = {"type": "response.create", "model": "m", "input": "", "generate": False, "metadata": {"pad": ""}}
    left = size - len(json.dumps(event).encode())
    event["input"] = filler * (left // len(filler.encode()))
    event["metadata"]["pad"] = "x" * (left % len(filler.encode()))
    frame = json.dumps(event, ensure_ascii=False)
    assert len(frame.encode()) == size
    return frame


def test_the_limit_is_16_mib() -> None:
    """As measured on the real service: 16,777,216 bytes pass, one more does not."""
    with LocalServer() as server:
        with connect(server) as client:
            client.send(sized(SERVER_LIMIT))
            assert client.until_terminal()[-1]["type"] == "response.completed"
        with mute(server) as hand:
            with contextlib.suppress(ConnectionError):  # the server need not read to the end what it will not take
                hand.send(TEXT, sized(SERVER_LIMIT + 1).encode())
            assert hand.closed() == 1009


def test_fragments_are_joined_and_count_together() -> None:
    """A message in fragments is one message, for its meaning and for the limit."""
    whole = sized(LIMIT).encode()
    with LocalServer(frame_limit=LIMIT) as server, connect(server) as client:
        client.ws.send([whole[:10].decode(), whole[10:500].decode(), whole[500:].decode()])
        assert client.until_terminal()[-1]["type"] == "response.completed"
        over = sized(LIMIT + 1)
        client.ws.send([over[:600], over[600:]])
        ended = client.ended()
        assert ended is not None and ended[0] == 1009


@pytest.mark.parametrize("opcodes", [(BINARY,), (BINARY, CONTINUATION)])
def test_a_binary_frame_is_refused(server: LocalServer, opcodes: tuple[int, ...]) -> None:
    """A binary frame is an error of the protocol: closed with 1003, whole or in fragments."""
    with connect(server) as client:
        client.ws.send([b"{", b"}"] if len(opcodes) > 1 else b"{}")
        ended = client.ended()
    assert ended is not None and ended[0] == 1003


def test_a_large_event_arrives_whole() -> None:
    """Five MiB of text come in one message of one frame, and in the terminal event once more."""
    said = "x" * BIG
    with LocalServer(scenario=Answer(Text("a", said))) as server:
        with mute(server) as client:
            client.create()
            sizes = [len(frame.payload) for frame in client.until_terminal()]
            assert len([size for size in sizes if size > BIG]) >= 4
        with connect(server) as client:
            assert text(client.final()) == f"a{said}"


@pytest.mark.parametrize("offered", [True, False], ids=["offered", "not-offered"])
@pytest.mark.parametrize("switch", [True, False], ids=["on", "off"])
def test_compression_is_a_switch(switch: bool, offered: bool) -> None:
    """Frames are compressed where the server's switch is on and the client offers it, and nowhere else; nobody can tell."""
    used = switch and offered
    with LocalServer(compression=switch) as server:
        with mute(server, more=DEFLATE if offered else "") as client:
            assert (b"permessage-deflate" in client.head.lower()) == used
            client.create("hello " * 100)
            client.frame(), client.frame()
            assert (client.frame().rsv == 4) == used
        with connect(server, compression="deflate" if offered else None) as client_:
            assert (client_.ws.protocol.extensions != []) == used
            for number in range(3):
                assert text(client_.final(f"grüße {number}")) == f"Heard: grüße {number} (context: 1)"


def test_no_compression_unless_it_is_asked_for(server: LocalServer) -> None:
    """The switch is off by itself, as the official SDK offers none."""
    with connect(server, compression="deflate") as client:
        assert client.ws.protocol.extensions == []


@pytest.mark.parametrize("above", [1, 100 * LIMIT])
def test_the_limit_holds_for_what_was_compressed(above: int) -> None:
    """A small frame that grows over the limit is refused like a large one, to the byte."""
    with LocalServer(frame_limit=LIMIT, compression=True) as server, connect(server, compression="deflate") as client:
        client.send(sized(LIMIT))
        assert client.until_terminal()[-1]["type"] == "response.completed"
        client.send(sized(LIMIT + above))
        ended = client.ended()
        assert ended is not None and ended[0] == 1009


@pytest.mark.parametrize("cause", ["binary", "close_connections", "scenario", "client"])
def test_one_close_frame_is_enough(server: LocalServer, cause: str) -> None:
    """Whoever begins, each side sends one close frame, and then the TCP connection ends."""
    server.scenario = lambda _: [Close(1012)]
    with mute(server) as client:
        match cause:
            case "binary":
                client.send(BINARY, b"x")
            case "close_connections":
                server.close_connections(1001)
            case "scenario":
                client.create()
            case "client":
                client.send(CLOSE, b"\x03\xe8")
        assert client.closed() == {"binary": 1003, "close_connections": 1001, "scenario": 1012, "client": 1000}[cause]
        if cause != "client":
            client.send(CLOSE, b"\x03\xe8")
        assert client.sock.recv(1) == b""


def test_a_client_that_reads_nothing_is_given_up() -> None:
    """When its socket takes no more, no ping reaches it and no pong comes: the answer ends, and the connection with it."""
    ended = threading.Event()

    def flood(_: Json) -> Iterator[Step]:
        try:
            for _number in range(200):
                yield {"type": "x", "x": "x" * (1 << 20)}
        finally:
            ended.set()

    with LocalServer(ping_interval=SOON, ping_timeout=0.2, scenario=flood) as server, mute(server) as client:
        client.create()
        assert ended.wait(5), "the answer is still being sent to a client that has read nothing for seconds"


def test_nothing_follows_a_close_frame() -> None:
    """Neither what is left of an answer, nor a pong, nor the answer to a request that comes afterwards."""
    pause = Pause()
    steps: list[Step] = [{"type": "first"}, pause, Answer("Too late.")]
    with LocalServer(scenario=lambda _: steps) as server, mute(server) as client:
        client.create()
        client.frame()
        client.send(BINARY, b"x")
        assert client.closed() == 1003
        pause.event.set()
        client.send(PING, b"still there?")
        client.create()
        server.requests.wait(2)
        client.send(CLOSE, (1000).to_bytes(2, "big"))
        assert client.sock.recv(1) == b""


def test_a_close_ends_what_the_other_lanes_say() -> None:
    """A scenario's close on one lane is the last frame of the connection."""
    pause = Pause()
    steps: dict[str | None, list[Step]] = {"a": [{"type": "running"}, pause, {"type": "too late"}], "b": [Close(1001)]}

    def scenario(body: Json) -> list[Step]:
        return steps[body.get("stream_id")]

    with LocalServer(scenario=scenario) as server, mute(server) as client:
        client.create(stream_id="a")
        client.frame()
        client.create(stream_id="b")
        assert client.closed() == 1001
        pause.event.set()
        assert client.sock.recv(1) == b""
