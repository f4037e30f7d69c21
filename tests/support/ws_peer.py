"""A scripted WebSocket peer on raw sockets, plain or TLS, which can do what no decent server does.

A script is ``script(wire)``; it runs on a thread of its own for each connection, by default after the upgrade::

    def script(wire):
        create = wire.read_create()
        wire.answer("Hello", to=create)
        wire.frame(TEXT, b"{", length=100)
        wire.cut()

    with WebSocketPeer(script, tls=True) as peer:
        Provider(websocket_url=peer.websocket_url, network=Network(ca_bundle=peer.ca_file), ...)

Given a list of scripts, the first connection (that was upgraded, if the peer upgrades) gets the first, and so on; a connection
too many is an error. `answering` and `conversation` make the common scripts. For a server that accepts TCP and never shakes
hands, let a plain peer without upgrade `Wire.hold`.

Rules kept here:

* Every wait has a deadline; what is not there in time is `AssertionError`.
* An error of a script, `AssertionError` too, is raised where the ``with`` block ends, unless the block itself raised.
  So is the OSError of a send to a client that has gone: a script that expects it says ``with suppress(OSError)``.
* A client that leaves where a script reads just ends the script (`ClientGone`); so does the
  end of the block, there and in a hold.
* Every method of a `Wire` may be called from any thread, so the test itself may send while the script holds. What one call
  sends stays together.
* While a wire waits to write, it reads, unless the script said `Wire.stop_reading`: no deadlock between two large messages.
* A script that returns ends its connection in an orderly way: close_notify over TLS, then FIN. A close frame it has to send.
* Nothing outlives the block: no thread, no socket.
"""

from __future__ import annotations

import itertools
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tests.support.peer import DEADLINE, ClientGone, Request
from tests.support.tls import Channel, authority
from tests.support.ws_wire import BINARY, CLOSE, CONTINUATION, HOLD, PING, PONG, TEXT, Frame, Json, Wire, frame_bytes

__all__ = [
    "BINARY", "CLOSE", "CONTINUATION", "ClientGone", "Frame", "PING", "PONG", "Request", "Script", "Step", "TEXT",
    "WebSocketPeer", "Wire", "answering", "conversation", "frame_bytes",
]  # fmt: skip

Script = Callable[[Wire], object]


class WebSocketPeer:
    """The peer, as a context manager; listens from its construction on a free port of loopback.

    Attributes: ``base_url`` and ``websocket_url`` (for a Provider), ``host``, ``port``, ``ca_file`` (None when plain),
    ``connections`` (the `Wire` of each that was accepted, in order), ``creates`` (all that scripts read by
    `Wire.read_create`, in order), ``refused`` (the errors of TLS handshakes), ``ending`` (set when the block ends).
    """

    def __init__(
        self,
        script: Script | Sequence[Script],
        *,
        tls: bool | ssl.SSLContext = False,
        upgrade: bool = True,
        receive_buffer: int | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        """``tls``: True for the `authority`'s TLS 1.3. ``upgrade``: whether the peer answers 101 before the script begins.

        ``receive_buffer``: the size of the sockets' SO_RCVBUF, in bytes. ``deadline``: how long the scripts have, after the
        block has ended, to end themselves.
        """
        self._script = script
        self._upgrade = upgrade
        self._deadline = deadline
        self._context = authority().server_context() if tls is True else tls or None
        self.ca_file = authority().ca_file() if tls is True else None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.setblocking(False)
        self.host, self.port = "127.0.0.1", self._listener.getsockname()[1]
        secure = "s" if self._context else ""
        self.base_url = f"http{secure}://{self.host}:{self.port}/v1"
        self.websocket_url = f"ws{secure}://{self.host}:{self.port}/v1/responses"
        self.ending = threading.Event()
        self.connections: list[Wire] = []
        self.creates: list[Json] = []
        self.refused: list[OSError] = []
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._ids, self._order = itertools.count(1), itertools.count()
        # Guards the lists above; notified when one grows and when a connection is upgraded.
        self._news = threading.Condition()
        # Its first end becomes readable when the block ends, which wakes every wait.
        self._wake, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="ws-peer-accept", daemon=True)

    def __enter__(self) -> WebSocketPeer:
        self._acceptor.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.ending.set()
        self._waker.close()
        self._acceptor.join(self._deadline)
        self._listener.close()
        until = time.monotonic() + self._deadline
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        stuck = [thread for thread in self._threads if thread.is_alive()]
        for wire in self.connections if stuck else ():
            wire.cut()
        for thread in stuck:
            thread.join(self._deadline)
            self._errors.append(AssertionError(f"the script of {thread.name} did not end"))
        self._wake.close()
        if self._errors and error is None:
            raise self._errors[0]

    def wait_connections(self, count: int, deadline: float = DEADLINE) -> list[Wire]:
        """Waits until so many connections have come (if the peer upgrades: are upgraded, so that the test may send); those."""

        def there() -> list[Wire]:
            return [wire for wire in self.connections if wire.opened.is_set() or not self._upgrade]

        with self._news:
            came = self._news.wait_for(lambda: len(there()) >= count, deadline)
            assert came, f"{len(there())} of {count} connections came within {deadline} s"
            return there()

    def wait_creates(self, count: int, deadline: float = DEADLINE) -> list[Json]:
        """Waits until scripts have read so many creates; all of them."""
        with self._news:
            came = self._news.wait_for(lambda: len(self.creates) >= count, deadline)
            assert came, f"{len(self.creates)} of {count} creates came within {deadline} s"
            return list(self.creates)

    def next_id(self) -> str:
        """The next response id of this peer: "resp_1" and so on."""
        return f"resp_{next(self._ids)}"

    def _note(self, create: Json) -> None:
        with self._news:
            self.creates.append(create)
            self._news.notify_all()

    def _changed(self) -> None:
        with self._news:
            self._news.notify_all()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self.ending.is_set():
            poll.poll()
            with suppress(BlockingIOError, ConnectionAbortedError):
                sock, _ = self._listener.accept()
                self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = Wire(Channel(sock, self._context, self._wake), len(self.connections), self)
        thread = threading.Thread(target=self._serve, args=(wire,), name=f"ws-peer-{wire.number}", daemon=True)
        with self._news:
            self.connections.append(wire)
            self._threads.append(thread)
            self._news.notify_all()
        thread.start()

    def _serve(self, wire: Wire) -> None:
        for part in (self._run, Wire._end):
            try:
                part(wire)
            except ClientGone:
                pass  # the ordinary end
            except BaseException as error:  # raised again where the block ends
                self._errors.append(error)

    def _run(self, wire: Wire) -> None:
        if not self._shaken_hands(wire):
            return
        if self._upgrade:
            asked = wire.read_request().headers.get("upgrade", "")
            assert asked.lower() == "websocket", f"no upgrade: {wire.request.method} {wire.request.path}"
            wire.accept()
        self._next_script(wire)(wire)

    def _shaken_hands(self, wire: Wire) -> bool:
        try:
            if not wire._channel.handshake(time.monotonic() + DEADLINE):
                return False
        except OSError as error:
            self.refused.append(error)
            return False
        wire._drain()  # the request may have come with the handshake's end
        return True

    def _next_script(self, wire: Wire) -> Script:
        if callable(self._script):
            return self._script
        number = next(self._order) if self._upgrade else wire.number
        assert number < len(self._script), f"connection {number} came and there are {len(self._script)} scripts"
        return self._script[number]


# Common scripts

Step = str | Sequence[Mapping[str, Any]] | Callable[[Wire, Json], object]


def answering(n: int | None = None, text: str = "ok", *, then: Script | None = None) -> Script:
    """Answers every create, or the first n; then goes on with the script ``then``, or holds and takes no further create."""
    if n is not None:
        return conversation(*[text] * n, then=then)

    def script(wire: Wire) -> None:
        while True:
            wire.answer(text, to=wire.read_create(HOLD))

    return script


def conversation(*steps: Step, then: Script | None = None) -> Script:
    """Reads a create before each step, and answers it: with this text, these events, or by ``step(wire, create)``.

    After the last step the script ``then``, or else a hold in which a further create is an error.
    """

    def script(wire: Wire) -> None:
        for step in steps:
            create = wire.read_create(HOLD)
            if callable(step):
                step(wire, create)
            elif isinstance(step, str):
                wire.answer(step, to=create)
            else:
                wire.send_all(step)
        if then is not None:
            then(wire)
        else:
            more = wire.read_create(HOLD)
            raise AssertionError(f"a create came after the last of {len(steps)} steps, with the keys {sorted(more)}")

    return script
