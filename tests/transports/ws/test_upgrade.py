"""Opening a WebSocket: the request, the agreement, TLS, limits, cancel (rows B17, B19 and C6 on this side)."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest
import websocket
from websocket import _handshake

from pixir_sync import Cancelled, CancelToken, ConnectFailed, ConnectTimeout, InvalidRequest, PixirError, ProviderClosed
from pixir_sync.transports.ws.handshake import Opening
from tests.support.peer import Conn, Script, ScriptedPeer
from tests.transports.http.helpers import DEADLINE, full_backlog, linux, mute_listener, nothing_left, took
from tests.transports.ws.upgrade_helpers import (
    FRAME,
    HEADERS,
    KEY,
    address,
    agreement,
    agrees,
    answers,
    opened,
    peer_of,
    received,
    says,
    server_context,
    upgraded,
)

both = pytest.mark.parametrize("kind", ["plain", "tls"])


def test_the_request_is_these_bytes() -> None:
    """No Origin, no cookie, no offer of an extension or a protocol: what RFC 6455 demands, and the caller's headers."""
    with peer_of("plain", agrees) as peer, upgraded(address(peer, "/v1/responses?model=m&v=1")):
        pass
    key = peer.requests[0].headers["sec-websocket-key"]
    assert bytes(peer.connections[0].received).decode() == (
        "GET /v1/responses?model=m&v=1 HTTP/1.1\r\n"
        "Upgrade: websocket\r\n"
        f"Host: 127.0.0.1:{peer.port}\r\n"
        f"Sec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Connection: Upgrade\r\n"
        "User-Agent: tester/1\r\n"
        f"Authorization: Bearer {KEY}\r\n"
        "\r\n"
    )


def test_headers_of_the_upgrade_are_not_the_callers() -> None:
    """An extension that a caller offers would be agreed to, and then nobody could read the frames."""
    headers = HEADERS | {"Sec-WebSocket-Extensions": "permessage-deflate", "sec-websocket-key": "x", "X-Own": "é"}
    with peer_of("plain", agrees) as peer, upgraded(address(peer), headers=headers):
        pass
    request = bytes(peer.connections[0].received)
    assert b"permessage" not in request
    assert request.lower().count(b"sec-websocket-key") == 1
    assert "X-Own: é\r\n".encode("latin-1") in request


@pytest.mark.parametrize("headers", [{"X": "a\r\nEvil: b"}, {"X\r\nEvil": "b"}, {"Host": "other"}])
def test_headers_that_would_change_the_request_are_refused(headers: dict[str, str]) -> None:
    """A line break in a header, which the library would send as it is, opens no connection."""
    with peer_of("plain", agrees) as peer, pytest.raises(InvalidRequest):
        opened(address(peer), headers=headers)
    assert peer.connections == []


@both
def test_the_socket_is_handed_over(kind: str) -> None:
    """It does not block, has no delay, carries bytes both ways, and outlives everything that opened it."""

    def script(conn: Conn) -> None:
        conn.send(agreement(conn, X_Evidence="7", Set_Cookie="a=b"))
        conn.send(FRAME)
        conn.wait_closed()

    with peer_of(kind, script) as peer, upgraded(address(peer)) as found:
        gc.collect()
        assert found.sock.gettimeout() == 0
        assert found.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert isinstance(found.sock, ssl.SSLSocket) == (kind == "tls")
        if isinstance(found.sock, ssl.SSLSocket):
            assert found.sock.version() == "TLSv1.3"
        assert (found.headers["x-evidence"], "set-cookie" in found.headers) == ("7", False)
        assert 0 < found.connect_ms < 5000
        data = found.leftover
        assert data + received(found.sock, len(FRAME) - len(data)) == FRAME
        found.sock.sendall(b"bye")
    assert bytes(peer.connections[0].received).endswith(b"bye")
    assert "X-Evidence" not in repr(found) and "leftover" not in repr(found)


@both
@pytest.mark.parametrize("size", [0, 1, 4000, 60_000])
def test_frames_behind_the_head_are_kept(kind: str, size: int) -> None:
    """What comes in one segment with the 101 is the beginning of the stream; nothing is lost, nothing comes twice."""
    frames = bytes(at % 251 for at in range(size))

    def script(conn: Conn) -> None:
        conn.send(agreement(conn) + frames)
        conn.wait_closed()

    with peer_of(kind, script) as peer, upgraded(address(peer)) as found:
        assert found.leftover + received(found.sock, size - len(found.leftover)) == frames


@both
def test_a_head_in_pieces(kind: str) -> None:
    """Where the head is cut does not matter; interim answers before it are passed over."""

    def script(conn: Conn) -> None:
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + agreement(conn)
        for at in range(len(head)):
            conn.send(head[at : at + 1])
        conn.send(FRAME)
        conn.wait_closed()

    with peer_of(kind, script) as peer, upgraded(address(peer)) as found:
        assert found.leftover + received(found.sock, len(FRAME) - len(found.leftover)) == FRAME


@pytest.mark.parametrize(
    "wrong",
    [
        {"Sec_WebSocket_Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
        {"Sec_WebSocket_Accept": ""},
        {"Upgrade": ""},
        {"Upgrade": "h2c"},
        {"Connection": "close"},
        {"Sec_WebSocket_Extensions": "permessage-deflate"},
        {"Sec_WebSocket_Protocol": "chat"},
    ],
)
@linux
def test_an_agreement_to_something_else(wrong: dict[str, str]) -> None:
    """A key that was not computed from ours, a header that is missing, or an extension that nobody offered."""

    def script(conn: Conn) -> None:
        conn.send(agreement(conn, **wrong))
        conn.wait_closed()

    with peer_of("plain", script) as peer, nothing_left(), pytest.raises(ConnectFailed) as caught:
        opened(address(peer))
    assert (caught.value.phase, caught.value.request_sent, caught.value.status) == ("connect", False, None)


@both
@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6 swordfish\r\n",
        b"The password is swordfish",
        b"\r\n\r\n",
        b"HTTP/1.1 swordfish OK\r\n\r\n",
        b"HTTP/1.1 0101 swordfish\r\n\r\n",
        b"HTTP/2 101 swordfish\r\n\r\n",
        b"\x00\xff\xfe" * 50,
    ],
)
def test_garbage_in_place_of_an_answer(kind: str, said: bytes) -> None:
    """What is not HTTP fails at once, though the peer says no more and stays; it is never quoted."""
    silence = pytest.raises(ConnectFailed, match="did not answer the upgrade")
    with peer_of(kind, says(said)) as peer, took(0, 4), silence as caught:
        opened(address(peer), limit=30)
    error: BaseException | None = caught.value
    while error is not None:
        assert "swordfish" not in str(error)
        error = error.__cause__ or error.__context__


@both
@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 10", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("end", [Conn.close, Conn.cut, Conn.reset])
def test_a_peer_that_closes(kind: str, head: bytes, end: Callable[[Conn], None]) -> None:
    """A close, a cut or a reset before the head has ended is ConnectFailed."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(head)
        end(conn)

    with peer_of(kind, script) as peer, pytest.raises(ConnectFailed, match="did not answer the upgrade") as caught:
        opened(address(peer))
    assert (caught.value.phase, caught.value.request_sent, caught.value.retryable) == ("connect", False, True)


ENDLESS = {
    "many headers": (b"HTTP/1.1 101 Yes\r\n", b"X-Filler: 0123456789\r\n"),
    "one long header": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"0123456789" * 100),
    "a long first line": (b"HTTP/1.1 101 ", b"y" * 1000),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_headers(what: str) -> None:
    """A head may have 64 KiB and no more; what comes behind it is not read."""
    begin, more = ENDLESS[what]
    sent = 0

    def script(conn: Conn) -> None:
        nonlocal sent
        conn.read_request()
        conn.send(begin)
        with suppress(OSError):
            while sent < 64 << 20:
                conn.send(more * 100)
                sent += 100 * len(more)

    with peer_of("plain", script) as peer, pytest.raises(ConnectFailed, match="headers are longer than 65536"):
        opened(address(peer), limit=30)
    assert sent < 64 << 20


def test_a_long_head_may_come_with_frames() -> None:
    """The cap is for the head: frames behind one that is nearly as long as may be are no fault."""
    frames = b"f" * 30_000

    def script(conn: Conn) -> None:
        conn.send(agreement(conn, X_Filler="y" * 64_000) + frames)
        conn.wait_closed()

    with peer_of("plain", script) as peer, upgraded(address(peer)) as found:
        assert found.leftover + received(found.sock, len(frames) - len(found.leftover)) == frames


# Deadlines


def drips(conn: Conn) -> None:
    conn.read_request()
    with suppress(OSError):
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"y" * 1000:
            conn.send(bytes([byte]))
            time.sleep(0.05)


def mute(conn: Conn) -> None:
    conn.read_request()
    conn.wait_closed()


@both
@pytest.mark.row("C6")
@pytest.mark.parametrize("script", [drips, mute])
@linux
def test_a_server_that_takes_its_time(kind: str, script: Script) -> None:
    """The limit holds for the whole head, however many bytes of it come, each in time."""
    with peer_of(kind, script) as peer, nothing_left(), took(0.39, 1.9), pytest.raises(ConnectTimeout) as caught:
        opened(address(peer), limit=0.4)
    assert (caught.value.phase, caught.value.request_sent, caught.value.retryable) == ("connect", False, True)


@contextmanager
def black_hole() -> Iterator[str]:
    with full_backlog() as port:
        yield f"ws://127.0.0.1:{port}/"


@contextmanager
def no_handshake() -> Iterator[str]:
    with mute_listener() as port:
        yield f"wss://127.0.0.1:{port}/"


@contextmanager
def no_answer() -> Iterator[str]:
    with mute_listener() as port:
        yield f"ws://127.0.0.1:{port}/"


Place = Callable[[], AbstractContextManager[str]]
PLACES: list[Place] = [black_hole, no_handshake, no_answer]


@linux
@pytest.mark.row("C6")
@pytest.mark.parametrize("place", PLACES)
def test_nobody_at_the_other_end(place: Place) -> None:
    """The limit holds for TCP, for the TLS handshake and for the answer alike."""
    with place() as url, nothing_left(), took(0.29, 1.8), pytest.raises(ConnectTimeout) as caught:
        opened(url, limit=0.3)
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


def test_all_phases_share_one_deadline() -> None:
    """A TLS handshake and an answer that are each within the limit, and together are not, are too late."""
    context = server_context()

    def script(conn: Conn) -> None:
        time.sleep(0.7)
        conn.sock = context.wrap_socket(conn.sock, server_side=True)
        head = agreement(conn)
        time.sleep(0.7)
        with suppress(OSError):
            conn.send(head)

    with ScriptedPeer(script) as peer, pytest.raises(ConnectTimeout):
        opened(f"wss://127.0.0.1:{peer.port}/", limit=1.0)


# Cancel


@linux
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("reason", "kind"), [("cancelled", Cancelled), ("closed", ProviderClosed)])
def test_a_cancel_ends_the_opening(place: Place, reason: str, kind: type[PixirError]) -> None:
    """From another thread, in TCP, in the TLS handshake and in the upgrade, with no limit of time: nothing is left behind."""
    token = CancelToken()
    with place() as url, nothing_left():
        timer = threading.Timer(0.1, token.cancel, [reason])
        timer.start()
        with took(0.05, 1.0), pytest.raises(kind) as caught:
            opened(url, limit=None, cancel=token)
        timer.join()
    assert not caught.value.request_sent


def test_a_cancel_before_the_opening() -> None:
    """A call that was cancelled before sends no request."""
    token = CancelToken()
    token.cancel()
    with ScriptedPeer(lambda conn: conn.wait_closed()) as peer, pytest.raises(Cancelled):
        opened(address(peer), cancel=token)
    assert all(not conn.received for conn in peer.connections)


@both
@linux
def test_a_cancel_within_a_head_or_a_body(kind: str) -> None:
    """Also while bytes keep coming."""
    for begin in (b"HTTP/1.1 101 ", b"HTTP/1.1 401 No\r\n\r\n"):
        token, coming = CancelToken(), threading.Event()

        def script(conn: Conn, begin: bytes = begin, coming: threading.Event = coming) -> None:
            conn.read_request()
            conn.send(begin)
            coming.set()
            with suppress(OSError):
                while True:
                    conn.send(b"y")
                    time.sleep(0.01)

        def cancel(token: CancelToken = token, coming: threading.Event = coming) -> None:
            assert coming.wait(DEADLINE)
            token.cancel()

        with peer_of(kind, script) as peer, nothing_left():
            thread = threading.Thread(target=cancel, name="test-cancel")
            thread.start()
            with pytest.raises(Cancelled):
                opened(address(peer), limit=None, cancel=token)
            thread.join(DEADLINE)


class Interrupting(CancelToken):
    """Stands for a Ctrl-C: the so-and-so-manyth look at it raises KeyboardInterrupt."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def cancelled(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            raise KeyboardInterrupt
        return False


@both
@linux
def test_an_interrupt_closes_the_socket(kind: str) -> None:
    """Whichever step a Ctrl-C hits, no file stays open and the interrupt is what the caller sees."""
    hits = 0
    with peer_of(kind, tolerant(agrees)) as peer, nothing_left():
        for looks in range(100):
            try:
                opened(address(peer), cancel=Interrupting(looks)).sock.close()
            except KeyboardInterrupt as error:
                hits += 1
                assert error.__traceback__ is not None
            else:
                break
    assert hits >= (3 if kind == "tls" else 2)  # a look at least before each of: the handshake, the request, the answer


def tolerant(script: Script) -> Script:
    """The script, for a client that may leave anywhere."""

    def run(conn: Conn) -> None:
        with suppress(AssertionError, OSError):
            script(conn)

    return run


# TLS


def test_an_authority_that_is_not_trusted() -> None:
    """It says so, in the words of HTTP, and is not tried again."""
    with peer_of("tls", agrees) as peer, pytest.raises(ConnectFailed, match="certificate is not trusted") as caught:
        opened(address(peer), context=ssl.create_default_context)
    assert (caught.value.details, caught.value.retryable, caught.value.phase) == ({"certificate": True}, False, "connect")
    assert peer.requests == []


def test_a_certificate_for_another_host() -> None:
    """The name is checked: a good certificate for somebody else is not trusted."""
    context = server_context("other.example")
    with ScriptedPeer(agrees, ssl_context=context) as peer, pytest.raises(ConnectFailed, match="not trusted") as caught:
        opened(address(peer))
    assert caught.value.details == {"certificate": True}
    assert peer.requests == []


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\nswordfish", b"\x15\x03\x03\x00\x02\x02\x28", b""])
@linux
def test_a_peer_that_does_not_speak_tls(said: bytes) -> None:
    """Plain text, an alert or a close in place of a handshake is ConnectFailed; the certificate is not to blame."""

    def script(conn: Conn) -> None:
        conn.send(said)
        conn.cut()

    with ScriptedPeer(script) as peer, nothing_left(), pytest.raises(ConnectFailed, match="TLS handshake failed") as caught:
        opened(f"wss://127.0.0.1:{peer.port}/")
    assert caught.value.details == {}
    assert "swordfish" not in f"{caught.value} {caught.value.__cause__}"


def test_no_context_is_made_for_a_plain_connection() -> None:
    """Making one costs more than a hundred turns."""

    def context() -> ssl.SSLContext:
        raise AssertionError("asked for a context")

    with peer_of("plain", agrees) as peer, upgraded(address(peer), context=context):
        pass


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_host_that_is_no_name(host: str) -> None:
    with pytest.raises(ConnectFailed, match="could not be resolved"):
        opened(f"wss://{host}/")


# What does not happen


def test_no_cookie_is_kept_or_sent() -> None:
    """websocket-client's jar is the process's: a cookie of one tenant would go out on another's connection."""
    cookie = "ours=2; Domain=localhost"
    jar = _handshake.CookieJar
    jar.add("theirs=1; Domain=localhost")

    def agrees_with_cookie(conn: Conn) -> None:
        conn.send(agreement(conn, Set_Cookie=cookie))
        conn.wait_closed()

    try:
        scripts = [agrees_with_cookie, answers(302, Set_Cookie=cookie), answers(401, Set_Cookie=cookie), agrees]
        with ScriptedPeer(scripts, host="localhost") as peer:
            for _ in scripts:
                with suppress(PixirError), upgraded(address(peer)):
                    pass
        assert jar.get("localhost") == "theirs=1"
    finally:
        jar.jar.clear()
    assert len(peer.requests) == 4
    assert b"cookie" not in b"".join(bytes(conn.received) for conn in peer.connections).lower()


def test_the_callers_own_cookie_is_sent() -> None:
    """A gateway may want one; it is a header like any other."""
    with peer_of("plain", agrees) as peer, upgraded(address(peer), headers={"Cookie": "session=1"}):
        pass
    assert peer.requests[0].headers["cookie"] == "session=1"


@both
def test_a_trace_of_the_library_shows_no_key(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A program that has websocket-client log everything does not log the credential, nor what the server said."""

    def agrees_at_length(conn: Conn) -> None:
        conn.send(agreement(conn, X_Word="swordfish"))
        conn.wait_closed()

    scripts = [agrees_at_length, answers(401, b'{"error": {"message": "swordfish"}}', X_Word="swordfish")]
    websocket.enableTrace(True, handler=logging.NullHandler())
    try:
        with ScriptedPeer(scripts, ssl_context=server_context() if kind == "tls" else None) as peer:
            with caplog.at_level(logging.DEBUG):
                for _ in scripts:
                    with suppress(PixirError), upgraded(address(peer)):
                        pass
    finally:
        websocket.enableTrace(False)
    assert len(peer.requests) == 2
    assert "Sec-WebSocket-Key" in caplog.text  # the trace is on
    assert KEY not in caplog.text and "swordfish" not in caplog.text


def test_nothing_waits_for_the_garbage_collector() -> None:
    """What opened a connection is gone when it is open, or has failed: no reference cycle holds it."""

    def kept() -> int:
        return sum(issubclass(type(o), (websocket.WebSocket, Opening, PixirError)) for o in gc.get_objects())

    scripts = [agrees, answers(404), says(b"what?"), lambda conn: conn.cut(), mute]
    gc.collect()
    gc.disable()
    try:
        before = kept()
        with ScriptedPeer(scripts) as peer:
            for _ in scripts:
                with suppress(PixirError), upgraded(address(peer), limit=1.0):
                    pass
        assert len(peer.connections) == len(scripts)
        assert kept() == before
    finally:
        gc.enable()
