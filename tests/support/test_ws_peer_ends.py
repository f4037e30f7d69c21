"""The scripted WebSocket peer: errors of scripts come out where the block ends, and nothing is left over."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.peer import DEADLINE
from tests.support.tls import authority
from tests.support.ws_client import UPGRADE, connected, create, masked, read_all, reset
from tests.support.ws_peer import BINARY, Script, WebSocketPeer, Wire, answering, conversation

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


def fail(wire: Wire) -> None:
    raise LookupError("of the script")


def send_to_nobody(wire: Wire) -> None:
    assert wire.expect_closed() == "reset"
    wire.send("x")


@both
@pytest.mark.parametrize(
    ("script", "sent", "kind", "message"),
    [
        (fail, b"", LookupError, "of the script"),
        (lambda wire: wire.read_frame(0.1), b"\x81", AssertionError, "waited in vain for a frame"),
        (lambda wire: wire.expect_closed(0.1), b"", AssertionError, "waited in vain for the client to close"),
        (lambda wire: wire.hold(0.1, until=threading.Event()), b"", AssertionError, "did not set the event within 0.1 s"),
        (lambda wire: wire.read_create(), masked(BINARY, b"{}"), AssertionError, "opcode 2 where 1 was due"),
        (lambda wire: wire.raw(bytes(1 << 26), 0.1), b"", AssertionError, "did not take 67108864 bytes within 0.1 s"),
        (conversation("ok"), create() * 2, AssertionError, "a create came after the last of 1 steps"),
        (send_to_nobody, None, OSError, "."),
    ],
)
def test_error_of_a_script_is_raised_at_the_end(
    script: Script, sent: bytes | None, kind: type[Exception], message: str, tls: bool
) -> None:
    """What goes wrong in a script, a wait in vain and a send to a client that has gone too, is raised where the block ends."""
    with pytest.raises(kind, match=message), WebSocketPeer(script, tls=tls) as peer, connected(peer) as client:
        if sent is None:
            reset(client)
        else:
            client.sendall(sent)
        assert peer.connections[0].gone.wait(DEADLINE)


def test_what_is_no_upgrade_is_an_error() -> None:
    """A peer that upgrades says so when something else comes."""
    with pytest.raises(AssertionError, match="no upgrade: POST /v1/responses"), WebSocketPeer(answering()) as peer:
        with connected(peer, upgraded=False) as client:
            client.sendall(b"POST /v1/responses HTTP/1.1\r\n\r\n")
            assert read_all(client) == b""


def test_connection_too_many_is_an_error() -> None:
    """With a list of scripts, a connection that none is left for fails the test."""
    with (
        pytest.raises(AssertionError, match="connection 1 came and there are 1 scripts"),
        WebSocketPeer([lambda wire: wire.close()]) as peer,
    ):
        with connected(peer) as client:
            assert read_all(client) == b"\x88\x02\x03\xe8"
        with connected(peer) as client:
            assert read_all(client) == b""


def test_error_of_the_block_wins_over_the_script() -> None:
    """The test's own error is not hidden by what it did to the script."""
    with pytest.raises(KeyError), WebSocketPeer(fail) as peer, connected(peer) as client:
        read_all(client)
        raise KeyError("of the test")


def write_for_ever(wire: Wire) -> None:
    while True:
        wire.raw(bytes(1 << 20), 60)


@both
@pytest.mark.parametrize(
    "script",
    [
        lambda wire: wire.hold(),
        lambda wire: wire.hold(until=threading.Event()),
        lambda wire: wire.read_frame(60),
        lambda wire: wire.drip(b"x" * 1000, 60),
        answering(),
        conversation(),
        write_for_ever,
    ],
)
def test_end_of_the_block_ends_idle_scripts(script: Script, tls: bool) -> None:
    """A script that waits ends quietly and at once with the block, and no thread or socket stays."""
    before = threading.active_count()
    began = time.monotonic()
    with ExitStack() as longer:  # the client outlives the block
        with WebSocketPeer(script, tls=tls) as peer:
            client = longer.enter_context(connected(peer))
            peer.wait_connections(1)
        assert time.monotonic() - began < DEADLINE
        assert threading.active_count() == before
        assert peer.connections[0].how == "cut"
        client.settimeout(DEADLINE)
        read_all(client)
    gc.collect()  # a socket left open would be a ResourceWarning, and so an error
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((peer.host, peer.port), DEADLINE)


def test_script_that_does_not_end_is_named() -> None:
    """A script that goes on for ever is cut off and fails the test."""
    stop = threading.Event()
    with (
        pytest.raises(AssertionError, match="the script of ws-peer-0 did not end"),
        WebSocketPeer(lambda wire: stop.wait(0.4), deadline=0.1) as peer,
        connected(peer),
    ):
        peer.wait_connections(1)


def test_a_client_that_does_not_trust_the_peer_is_no_error() -> None:
    """It leaves a refusal; the peer speaks TLS 1.3 with those who trust the authority's file."""
    with WebSocketPeer(answering(), tls=True) as peer:
        with socket.create_connection((peer.host, peer.port), DEADLINE) as sock, pytest.raises(ssl.SSLError):
            ssl.create_default_context().wrap_socket(sock, server_hostname=peer.host)
        assert peer.connections[0].gone.wait(DEADLINE)
        with connected(peer) as client:
            assert isinstance(client, ssl.SSLSocket) and client.version() == "TLSv1.3"
        assert [wire.number for wire in peer.wait_connections(1)] == [1]
    assert [type(error) for error in peer.refused] == [ssl.SSLError]


def test_a_request_that_comes_with_the_end_of_the_handshake() -> None:
    """The client's last bytes of the handshake and its request in one segment: no poll tells of the request."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with WebSocketPeer(Wire.close, tls=True) as peer, connected_plainly(peer) as sock:
        tls = ssl.create_default_context(cafile=peer.ca_file).wrap_bio(incoming, outgoing, server_hostname=peer.host)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        while tls.version() != "TLSv1.3" or not outgoing.pending:
            incoming.write(sock.recv(1 << 16))
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
        tls.write(UPGRADE)
        sock.sendall(outgoing.read())
        peer.wait_connections(1)
        assert read_all(sock)


def connected_plainly(peer: WebSocketPeer) -> socket.socket:
    return socket.create_connection((peer.host, peer.port), DEADLINE)


def test_the_authority_is_one(tmp_path: Path) -> None:
    """One per process, with one file and one context; a test may have the file in a directory of its own."""
    made = authority()
    assert authority() is made
    assert made.ca_file() == made.ca_file()
    assert Path(made.ca_file()).read_bytes() == Path(made.ca_file(tmp_path)).read_bytes()
    assert made.server_context() is made.server_context()
    assert made.server_context(ssl.TLSVersion.TLSv1_2).minimum_version is ssl.TLSVersion.TLSv1_2
