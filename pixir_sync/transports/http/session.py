"""The HTTP session: one per provider and process, the only place that speaks to requests.

Rules kept here:

* Proxy, TLS and headers are ours (`pixir_sync.network`): nothing of ``.netrc``, of the environment or of a cookie gets in.
* Redirects are never followed: they would carry the credential elsewhere.
* What requests and urllib3 raise is translated here, once, into `PixirError`.
* A child process makes a session of its own: a shared connection would give it the parent's answers.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import ssl
import time
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from traceback import clear_frames
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from pixir_sync.cancellation import cancelled
from pixir_sync.config import Network
from pixir_sync.network import proxy_for, tls_context
from pixir_sync.protocol.classify import BODY_LIMIT, from_http
from pixir_sync.protocol.errors import ConnectFailed, ConnectionLost, InvalidResponse, PixirError
from pixir_sync.transports.http.guard import Guard
from pixir_sync.transports.http.sockets import POOL_CLASSES, guarding, use_guarded_sockets

__all__ = ["HttpSession", "Response"]

_POOL_SIZE = 256  # connections that may stay open per host; more threads than that still work, with fresh connections


class _Adapter(HTTPAdapter):
    """requests' adapter with guarded connections and our own SSL context."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=_POOL_SIZE, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def close(self) -> None:
        """Close the idle connections now; urllib3 by itself waits until nobody, not even an error's traceback, knows the pool.

        Without the lock of its queue, which this very thread may hold where a signal handler closes.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            keys = manager.pools.keys()  # a copy; the container itself cannot be iterated
            for key in keys:
                pool = manager.pools.get(key)
                held = getattr(pool, "pool", None)
                if pool is not None and held is not None:
                    pool.pool = None  # what is in use now is closed when it comes back
                    for connection in list(held.queue):
                        if connection is not None:
                            connection.close()
        super().close()

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing to add: the context knows whom to trust."""


class Response:
    """An answer whose body is read under the guard of its call. One thread at a time."""

    def __init__(self, response: requests.Response, guard: Guard) -> None:
        self._raw: urllib3.BaseHTTPResponse = response.raw
        self.guard = guard
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._encoded = "content-encoding" in self.headers  # without it urllib3's buffer of decoded bytes is 0.8 µs for nothing

    def read(self, limit: int = 65536) -> bytes:
        """What has arrived, at least one byte; ``b""`` at the end of the body. Raises `PixirError`."""
        try:
            return self._raw.read1(limit, decode_content=self._encoded)
        except BaseException as error:  # not by `translated`, which costs 0.5 µs also where nothing is raised
            _translate(error, self.guard)
            raise

    def read_all(self, limit: int) -> bytes:
        """The body, but not more than ``limit`` bytes of it."""
        parts: list[bytes] = []
        size = 0
        while size < limit and (part := self.read(limit - size)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def finish(self, seconds: float) -> None:
        """Read on to the end of the body for so long, so that the connection can be used again; else end it."""
        self.guard.expect_end(seconds)
        try:
            while self.read():
                pass
            self._raw.release_conn()
        except PixirError:
            self.abandon()  # the answer is complete; only the connection is not worth keeping

    def abandon(self) -> None:
        """End the connection now. Takes no lock of ours."""
        self.guard.abandon()
        self._raw.close()


class translated:
    """Turns what requests, urllib3 and sockets raise into the `PixirError` that it means."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            _translate(error, self._guard)


def _translate(error: BaseException, guard: Guard) -> None:
    """Raise what an error means, unless it means itself."""
    ended = guard.cancel.cancelled and isinstance(error, Exception)  # whatever a closed connection makes of it
    if not ended and not isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)):
        return
    if isinstance(error, PixirError) and guard.error is None:
        return
    _forget(error)
    raise _meaning(error, guard) from error


def _forget(error: BaseException | None) -> None:
    """Empty the frames that the libraries' errors have passed: they hold these errors, in cycles, and the connection."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _meaning(error: BaseException, guard: Guard) -> PixirError:
    """What an exception means: a cancel first, then a limit that ran out, then how far the attempt had come."""
    if guard.cancel.cancelled:
        found = cancelled(guard.cancel)
    elif guard.error is not None:
        found, guard.error = copy.copy(guard.error), None  # itself is what caused ``error``, and its traceback knows the guard
    elif guard.phase == "connect":
        found = _not_connected(error)
    elif _has_cause(error, urllib3.exceptions.DecodeError):
        found = InvalidResponse("the body of the answer is not encoded as its header says")
    else:
        found = ConnectionLost("the connection ended before the response did")
    return guard.placed(found)


def _not_connected(error: BaseException) -> PixirError:
    certificate = _has_cause(error, ssl.SSLCertVerificationError)
    if certificate:
        return ConnectFailed("the server's certificate is not trusted", details={"certificate": True}, retryable=False)
    if _has_cause(error, ssl.SSLError):
        return ConnectFailed("the TLS handshake failed")
    refused = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    if refused or _has_cause(error, urllib3.exceptions.ProxyError):
        return ConnectFailed("the proxy did not open a connection", details={"proxy_status": int(refused[1])} if refused else {})
    return ConnectFailed("the connection could not be made")


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error, or one that it wraps in any of the ways that the libraries have, is of this kind."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return True
        seen.add(id(error))
        inner = next((a for a in (getattr(error, "reason", None), *error.args) if isinstance(a, BaseException)), None)
        error = inner or error.__cause__ or error.__context__
    return False


class HttpSession:
    """Opens exchanges. Threads share it; nothing is made before the first exchange."""

    def __init__(self, network: Network) -> None:
        self._network = network
        # By process, and whether TLS is needed, whose context is costly. No lock, so that none can be held at a fork: setdefault
        # is atomic, and a session that lost a race is unused.
        self._sessions: dict[tuple[int, bool], requests.Session] = {}

    def _current(self, secure: bool) -> requests.Session:
        key = os.getpid(), secure
        found = self._sessions.get(key)
        return found if found is not None else self._sessions.setdefault(key, self._made(secure))

    def _made(self, secure: bool) -> requests.Session:
        adapter = _Adapter(use_guarded_sockets(tls_context(self._network)) if secure else None)
        session = requests.Session()
        session.trust_env = False
        session.headers.clear()
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None, guard: Guard, secrets: list[str]
    ) -> Response:
        """Send one request; the answer, its body still unread. Raises `PixirError`, also for any status but 2xx."""
        proxy = proxy_for(url, self._network)
        session = self._current(any(address.startswith("https:") for address in (url.lower(), (proxy or "").lower())))
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        wanted = {"Accept-Encoding": "gzip, deflate", **headers}
        try:
            with translated(guard), guarding(guard):
                request = session.prepare_request(requests.Request(method, url, headers=wanted, data=data))
                # By the adapter: Session.send looks at where a redirect leads, and reads all of its body for that.
                answer = session.get_adapter(url).send(request, stream=True, proxies=proxies)
        except BaseException:
            guard.abandon()
            raise
        response = Response(answer, guard)
        if not 200 <= response.status < 300:
            raise self._refusal(response, secrets)
        return response

    def _refusal(self, response: Response, secrets: list[str]) -> PixirError:
        response.guard.expect_end(2.0)
        body = b""
        with contextlib.suppress(PixirError):  # what came says enough
            while len(body) <= BODY_LIMIT and (part := response.read(BODY_LIMIT + 1 - len(body))):
                body += part
        response.finish(0.25) if len(body) <= BODY_LIMIT else response.abandon()
        error = from_http(response.status, response.headers, body, secrets=secrets, now=time.time())
        error.phase, error.request_sent = "first_event", True
        return error

    def close(self) -> None:
        """Close the idle connections; idempotent."""
        for secure in (False, True):
            session = self._sessions.pop((os.getpid(), secure), None)
            if session is not None:
                session.close()
