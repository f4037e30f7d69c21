"""`WebSocketTransport`: one socket per session, and only what is new on it.

Rules kept here:

* One attempt is one lease of the pool: a connection that stands, or a place in which one is opened.
* A connection is opened outside of every lock, under the call's own deadline, and only where the gate allows it.
* An attempt that is abandoned (its generator closed or collected) takes no lock: the pool closes the connection later.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pixir_sync.config import ProviderConfig
from pixir_sync.forking import importing, watch
from pixir_sync.network import merged, shared_headers, tls_context
from pixir_sync.protocol.errors import ConnectionLost, ConnectTimeout, HandshakeRefused, PixirError, TotalTimeout
from pixir_sync.transports.base import Call, Transport
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import conceal
from pixir_sync.transports.ws.exchange import Exchange
from pixir_sync.transports.ws.gate import Gate
from pixir_sync.transports.ws.keepalive import KeepaliveThread
from pixir_sync.transports.ws.pool import ConnectionPool, Lease, PoolKey

if TYPE_CHECKING:
    import ssl

__all__ = ["WebSocketTransport", "own_headers"]

_CLOSING = (1.0, 0.05)  # seconds that `close` waits for the end of everything; in the middle of a call of the same thread
_SALT = os.urandom(16)
_TRACING = frozenset({
    "traceparent", "tracestate", "baggage", "x-request-id", "x-client-request-id", "x-trace-id", "x-correlation-id", "b3",
    "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "x-amzn-trace-id", "x-cloud-trace-context",
})  # fmt: skip
"""Headers that tell calls apart, not users: they do not keep a connection from being used again."""


def own_headers(config: ProviderConfig) -> dict[str, str]:
    """The headers of every upgrade, beside the credential's and the call's."""
    return merged(config.preset.upgrade_headers, shared_headers(config))


def _distinguishing(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The headers that a connection is never shared over."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return tuple(sorted((name, value) for name, value in lowered.items() if name not in _TRACING))


def _place(
    key: Callable[..., PoolKey], url: str, identity: str, headers: tuple[tuple[str, str], ...], scope: str | None,
    session: str | None,
) -> tuple[PoolKey, str]:  # fmt: skip
    """Whose connections a call may use, and what the evidence calls its own. ``key`` makes the first."""
    facts = repr((url, identity, headers, scope, session)).encode()
    return key(url, identity, headers, scope), hashlib.blake2b(facts, key=_SALT, digest_size=8).hexdigest()


class WebSocketTransport(Transport):
    """Responses over WebSocket. Threads share it."""

    name: ClassVar[str] = "websocket"

    def __init__(self, config: ProviderConfig) -> None:
        self._config = config
        self._url, self._frame_limit = config.websocket_address, config.preset.frame_limit
        self._common = PoolKey(self._url, "", _distinguishing(own_headers(config)), None)  # its repr shows no header
        key = lru_cache(maxsize=16)(PoolKey)  # one for the idle sessions of a user: 80 bytes less for each
        self._place = lru_cache(maxsize=128)(partial(_place, key))  # saves a thirtieth of a short turn
        self._gate = Gate()
        self._pool = ConnectionPool(config.pool)
        self._keepalive = KeepaliveThread(self._pool, config.keepalive)
        self._context: ssl.SSLContext | None = None
        self._last: Callable[[], Connection | None] = lambda: None  # that of the last turn
        self.after_fork()
        watch(self)

    def after_fork(self) -> None:
        """The pool, the gate and the keepalive thread look after themselves in a child process."""
        # Guards the making of the context.
        self._context_lock = threading.Lock()

    # What the provider asks.

    def known(self, session: str | None, scope: str | None) -> Sequence[list[dict[str, Any]]]:
        return [baseline.input for baseline in self._pool.peek(session, scope)]

    def has_session(self, session: str, scope: str | None) -> bool:
        return self._pool.has_session(session, scope)

    def release(self, session: str, scope: str | None) -> None:
        self._pool.release(session, scope)

    def drop(self) -> None:
        """Cut every connection that nobody has, as a network does."""
        for connection in cast("list[Connection]", self._pool.idle()):
            connection.lose_idle()

    def avoid(self, seconds: float) -> None:
        self._gate.avoid(self._url, seconds)

    def preview(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"type": "response.create", **body}

    def stats(self) -> dict[str, Any]:
        found = self._pool.snapshot()
        return {"live": self._pool.live, "breaker": self._gate.snapshot(), "pool": found}

    def close(self) -> None:
        """Takes no lock: a signal handler and a finaliser may close, in the middle of anything that this thread does."""
        wait = _CLOSING[self._pool.leased_here()]
        self._pool.close_soon()
        self._keepalive.look(wait)  # that closes the idle; what is in use now its holder gives back

    # One attempt.

    def attempt(self, call: Call) -> Iterator[list[Any]]:
        call.evidence.active_transport = self.name
        credential = call.authorize()
        lease = self._lease(call)
        exchange: Exchange | None = None
        try:
            held = cast("Connection | None", lease.connection)
            call.secrets.extend(held.secrets if held is not None else ())  # it may have been opened with other ones
            exchange = Exchange(call, self._config, self._frame_limit, held, lease.reset, partial(self._cancelled, lease))
            exchange.run_on(held if held is not None else self._open(call, lease, credential))
            proven = lease.reused
            for events in exchange.batches():
                if not proven:
                    self._gate.succeeded(lease.key.url, lease.key.identity)
                    proven = True
                yield events
                lease.thread = threading.get_ident()  # the stream may have gone to another thread
            keep = exchange.finish()
            self._share(cast("Connection | None", lease.connection))
            self._pool.give_back(lease, keep=keep)
        except PixirError as error:
            conceal(error, call.secrets)
            self._failed(call, lease, exchange, error)
            raise
        except BaseException:
            self._left(call, lease, exchange)
            raise

    def _lease(self, call: Call) -> Lease:
        common = self._common.headers
        headers = _distinguishing(self._headers(call)) if call.headers else common
        place = self._place if headers == common else partial(_place, PoolKey)  # the call's own may hold a key: not remembered
        key, call.evidence.websocket_key = place(self._url, call.identity(), headers, call.scope, call.session)
        items = call.body.items if call.session is None else None
        limit = call.deadline.sooner(call.timeouts.pool)
        prefer = call.preferred or self._holder_of(call)
        try:
            lease = self._pool.lease(key, call.session, items=items, deadline=limit, cancel=call.cancel,
                                     fresh=call.fresh, prefer=prefer)  # fmt: skip
        except PixirError as error:
            if call.deadline.passed and not call.cancel.cancelled:
                raise TotalTimeout("the call took longer than its total limit", phase="pool") from error
            raise
        call.evidence.connection_reused = lease.reused
        return lease

    def _holder_of(self, call: Call) -> object | None:
        """The idle connection whose last response the caller goes on from, by its id or by its input; on another one it may not
        be known.
        """
        body, previous = call.body, call.body.fields.get("previous_response_id")
        if call.session is not None or (previous is None and not body.settled):
            return None
        idle = cast("list[Connection]", self._pool.idle())
        if previous is not None:
            return next((c for c in idle if c.response_id == previous), None)
        return next((c for c in idle if c.baseline is not None and c.baseline.input is body.held), None)

    def _headers(self, call: Call) -> dict[str, str]:
        return merged(own_headers(self._config), call.headers)

    def _open(self, call: Call, lease: Lease, credential: Mapping[str, str]) -> Connection:
        """A new connection in the lease's place."""
        with importing:
            from pixir_sync.transports.ws.upgrade import upgrade

        key = lease.key
        if call.evidence.transport_preference == "auto":
            self._gate.check(key.url, key.identity)
        limit = call.deadline.sooner(call.timeouts.connect)
        try:
            headers = merged(self._headers(call), credential)
            opened = upgrade(key.url, headers, self._config.network, self._tls, limit, call.cancel, call.secrets)
        except PixirError as error:
            if isinstance(error, ConnectTimeout) and call.deadline.passed:
                self._gate.withdrawn(key.url, key.identity)  # it says nothing about the server
                raise TotalTimeout("the call took longer than its total limit", phase="connect") from error
            self._gate.failed(key.url, key.identity, error)
            raise
        call.evidence.connect_ms = opened.connect_ms
        connection = Connection(opened.sock, opened.leftover, self._config.keepalive)
        connection.secrets = tuple(call.secrets)
        self._pool.opened(lease, connection)
        self._keepalive.ensure()
        return connection

    def _tls(self) -> ssl.SSLContext:
        with self._context_lock:
            if self._context is None:
                self._context = tls_context(self._config.network)
            return self._context

    # The end of an attempt.

    def _share(self, connection: Connection | None) -> None:
        """Keep once what is equal for many sessions (model, instructions, tools, credential): as the last one that had a turn.

        Of an idle session that asks for nothing but a model it is 450 of 4,150 bytes.
        """
        before = self._last()
        if connection is None or connection is before:
            return
        if before is not None:
            mine, theirs = connection.baseline, before.baseline
            if mine is not None and theirs is not None and mine.fields == theirs.fields:
                mine.fields = theirs.fields
            if connection.secrets == before.secrets:
                connection.secrets = before.secrets
        self._last = weakref.ref(connection)

    def _failed(self, call: Call, lease: Lease, exchange: Exchange | None, error: PixirError) -> None:
        if exchange is None:  # it could not be worded, or is too large for a frame: the connection was not touched
            self._pool.give_back(lease, keep=lease.connection is not None)
            return
        exchange.failed(error)
        if exchange.connection is not None and not lease.reused and not call.assembler.output_seen:
            if isinstance(error, (ConnectionLost, HandshakeRefused)):
                self._gate.failed(lease.key.url, lease.key.identity, error)
            else:
                self._gate.withdrawn(lease.key.url, lease.key.identity)
        self._pool.give_back(lease, keep=False)

    def _cancelled(self, lease: Lease) -> None:
        """The call was cancelled, from any thread: its session need not wait for its consumer. Takes no lock."""
        self._pool.abandon(lease, "caller_cancelled")
        self._keepalive.ring()

    def _left(self, call: Call, lease: Lease, exchange: Exchange | None) -> None:
        """The consumer is gone, perhaps in a finaliser: no lock from here on. What it had read to its end serves again."""
        if exchange is not None and call.assembler.terminal is not None and exchange.finish():
            self._pool.abandon(lease, None)
            return
        if exchange is not None:
            exchange.abandon()
        self._pool.abandon(lease, "caller_cancelled")
        self._keepalive.ring()
