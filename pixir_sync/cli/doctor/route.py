"""The way to the server: its name, TCP, the proxy, TLS, the upgrade, and whether the connection then stays open.

Rules kept here:

* Nothing of a protocol is done here. One connection is opened by what opens them for calls (`upgrade`, or `reach` without a
  WebSocket), which tells of its steps; name resolution alone is looked at beforehand, where it can be given up.
* The credential goes into the upgrade and nowhere else; of a proxy's URL only scheme, host and port are shown.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from pixir_sync.cancellation import CancelToken
from pixir_sync.cli.doctor import words
from pixir_sync.cli.doctor.examination import Examination
from pixir_sync.config import ProviderConfig
from pixir_sync.credentials import secrets_of
from pixir_sync.deadline import Deadline
from pixir_sync.network import connect_tcp, merged, proxy_for, proxy_source
from pixir_sync.protocol.errors import InvalidRequest, PixirError
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import conceal
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.transport import own_headers
from pixir_sync.transports.ws.upgrade import reach, upgrade
from pixir_sync.urls import split

__all__ = ["Route"]

_CHECKS = ("dns", "tcp", "proxy", "tls", "upgrade", "open")
_OPEN = 0.25  # seconds that a connection is watched for a close behind its upgrade, and as long again as the upgrade took
_PROXY = "if its network asks for a proxy, set HTTPS_PROXY."
_SHOWN = 3  # addresses
_SOON = 14  # days before the end of a certificate


class Route:
    """The way to one server, examined once. Not for several threads."""

    def __init__(self, exam: Examination, config: ProviderConfig, context: ssl.SSLContext | None, limit: float) -> None:
        self._exam, self._config, self._context, self._limit = exam, config, context, limit
        http = config.address("/responses")
        self._websocket = exam.transport != "http_sse"
        self._asks = self._websocket and exam.state("key") == "ok"
        self._url = config.websocket_address if self._websocket else "ws" + http.removeprefix("http")
        parts = split("the server's URL", self._url)
        self._host: str = parts.hostname
        self._secure = parts.scheme == "wss"
        self._target = f"{self._host}:{parts.port or (443 if self._secure else 80)}"
        self._source = ""
        self._bypassed = False
        self._proxy: Any = None

    def examine(self) -> None:
        """Make the checks, up to the one that fails."""
        self._go()
        self._exam.can(_CHECKS, ("dns", "tcp", "proxy", "tls", "upgrade", "key"))

    def _go(self) -> None:
        exam = self._exam
        try:
            self._choose()
        except InvalidRequest as error:
            exam.begin("proxy")
            exam.wrong(error.message, f"Correct {self._source}, or unset it.")
            return
        if not self._named():
            return
        exam.begin("tcp")
        with self._explained():
            if self._proxy is not None and (self._proxy.scheme == "https" or not (self._secure or self._websocket)):
                self._without_tunnel()
            elif self._asks:
                self._upgrade()
            else:
                reach(self._url, self._config.network, self._tls, Deadline(self._limit), CancelToken(), self._told)

    # Before anything is opened.

    def _choose(self) -> None:
        """Which proxy it is. Raises `InvalidRequest` for one that cannot be used."""
        network = self._config.network
        self._source, self._bypassed = proxy_source(self._url, network)
        address = proxy_for(self._url, network)
        if address is not None:
            self._proxy = split("the proxy's URL", address)
            if "@" in self._proxy.path + self._proxy.query + self._proxy.fragment:
                raise InvalidRequest("the proxy's URL has a / or a # in its login, which must be percent-encoded")

    def _named(self) -> bool:
        """Whether the name of whom to connect to has an address."""
        exam, via = self._exam, self._proxy is not None
        host = self._proxy.hostname if via else self._host
        exam.begin("dns")
        found = _addresses(host, self._limit)
        whose = f"{host}, the proxy of {self._source}," if via else host
        if isinstance(found, list):
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            exam.ok(f"{whose} is {'an address' if found == [host] else ', '.join(found[:_SHOWN]) + more}")
            return True
        if found == socket.EAI_AGAIN:
            exam.wrong(f"no name server answered for {whose.rstrip(',')}",
                       f"Check that this machine is online; {_PROXY}")  # fmt: skip
        elif found is None:
            exam.wrong(f"the name {whose.rstrip(',')} was not resolved within {self._limit:g} s",
                       "The name server is slow or out of reach: check the network.")  # fmt: skip
        else:
            exam.wrong(f"the name {whose.rstrip(',')} could not be resolved", self._name_advice(via))
        return False

    def _name_advice(self, via: bool) -> str:
        """A machine that knows no name of the outside may be meant to go through a proxy, which knows them."""
        if via:
            return f"Check the host in {self._source}."
        own = self._host in self._config.preset.hosts
        return f"Check {'that this machine is online' if own else 'the host in the base URL'}; {_PROXY}"

    # With the connection.

    def _without_tunnel(self) -> None:
        """A proxy that a WebSocket cannot go through, or that plain HTTP is simply sent to."""
        exam, proxy = self._exam, self._proxy
        port = proxy.port or (443 if proxy.scheme == "https" else 80)
        connect_tcp(proxy.hostname, port, Deadline(self._limit), CancelToken()).close()
        exam.ok(f"{proxy.hostname}:{port} takes connections")
        exam.begin("proxy")
        if self._websocket and proxy.scheme == "https":
            advice = f"Give {self._source} an http:// URL, if the proxy has one: what goes through it is encrypted anyway."
            says = f"{self._shown()}: a WebSocket cannot go through a proxy that is reached over https"
            (exam.limited if exam.transport == "auto" else exam.wrong)(says, advice)
        else:
            exam.ok(f"{self._shown()}, {'the http check opens the tunnel' if self._secure else 'which plain http is sent to'}")
        exam.skip(("tls",), "the http check makes it" if self._secure else "plain http has none")

    def _upgrade(self) -> None:
        """All of the way, and what happens at its end."""
        exam, config = self._exam, self._config
        credential = config.credentials().headers()
        secrets = secrets_of(credential)
        began = time.monotonic()
        opened = upgrade(self._url, merged(own_headers(config), credential), config.network, self._tls,
                         Deadline(self._limit), CancelToken(), secrets, self._told)  # fmt: skip
        exam.ok("101, the server speaks WebSocket")
        exam.begin("open")
        connection = Connection(opened.sock, opened.leftover, config.keepalive)
        try:
            self._watch(connection, Deadline(_OPEN + min(1.0, time.monotonic() - began)))
        except PixirError as error:
            conceal(error, secrets)
            self._closed(error)
        finally:
            connection.retire()

    def _watch(self, connection: Connection, deadline: Deadline) -> None:
        """Wait whether the server closes at once. Raises what it closed with."""
        lane = Lane()
        if connection.begin(lane, deadline):
            while not deadline.passed and connection.receive(lane, deadline) is not None:
                """What a server says unasked, such as its limits, is no close."""
        self._exam.ok("the connection stays open")

    def _closed(self, error: PixirError) -> None:
        code = error.details.get("close_code")
        if code == 1008:
            says = "the upgrade was answered with 101, and then the connection was closed with 1008: refused after all"
            advice = "Check what the key may do, and whether the server, or a gateway before it, lets this place use WebSockets."
        else:
            says = f"the upgrade was answered with 101, and then the connection was lost: {error.message}"
            advice = "A gateway may pass the upgrade on and no more: ask who runs it."
        self._fail(error, says, advice)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Ends the check that was begun where the block fails."""
        try:
            yield
        except PixirError as error:
            shown = urlsplit(self._config.url)._replace(query="").geturl()
            match self._exam.current:
                case "tcp":
                    explained = words.at_tcp(error, self._source if self._proxy is not None else "", shown)
                case "proxy":
                    explained = words.at_proxy(error, self._source, self._target)
                case "tls":
                    explained = words.at_tls(error, self._host)
                case _:
                    explained = words.at_upgrade(error, self._exam.variable)
            self._fail(error, *explained)

    def _fail(self, error: PixirError, says: str, advice: str) -> None:
        """What stops the WebSocket alone leaves HTTP: then the calls are limited, no more."""
        exam = self._exam
        alone = exam.current in ("upgrade", "open") or (exam.current == "proxy" and not self._secure)
        if alone and exam.transport == "auto" and words.falls_back(error):
            exam.limited(says, advice)
        else:
            exam.wrong(says, advice)

    def _tls(self) -> ssl.SSLContext:
        assert self._context is not None, "no TLS without a context"
        return self._context

    def _told(self, step: str, sock: socket.socket) -> None:
        """A step of the opening was made: say so, and begin the next."""
        exam = self._exam
        if step == "tcp":
            exam.ok(f"{self._peer(sock)} takes connections")
            exam.begin("proxy")
            if self._proxy is not None:
                return
            exam.ok("none" + (f": {self._source} is set, and NO_PROXY names this host" if self._bypassed else ""))
        elif step == "proxy":
            exam.ok(f"{self._shown()}, a tunnel to {self._target}")
        if step == "tls":
            exam.ok(_described(sock))
        else:
            exam.begin("tls")
            if self._secure:
                return
            exam.ok("none: plain http")
        if self._asks:
            exam.begin("upgrade")

    def _peer(self, sock: socket.socket) -> str:
        """Where the socket leads; the name, where whoever took the connection has left already."""
        try:
            host, port = sock.getpeername()[:2]
        except OSError:
            return self._target if self._proxy is None else str(self._proxy.hostname)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _shown(self) -> str:
        """The proxy, without its login."""
        host = f"[{self._proxy.hostname}]" if ":" in self._proxy.hostname else self._proxy.hostname
        port = f":{self._proxy.port}" if self._proxy.port else ""
        login = " with a login" if self._proxy.username else ""
        return f"{self._proxy.scheme}://{host}{port}{login} from {self._source}"


def _addresses(host: str, limit: float) -> list[str] | int | None:
    """The addresses of a host; the resolver's error; or None where it takes too long: only a thread can be given up."""
    found: list[list[str] | int] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.append(list(dict.fromkeys(str(row[4][0]) for row in rows)))
        except UnicodeError:
            found.append(socket.EAI_NONAME)
        except OSError as error:
            found.append(error.errno or socket.EAI_FAIL)
        done.set()

    threading.Thread(target=look_up, name="pixir-doctor-dns", daemon=True).start()
    done.wait(limit)
    return found[0] if found else None


def _described(sock: socket.socket) -> str:
    """The version of TLS, and the certificate, which was checked."""
    assert isinstance(sock, ssl.SSLSocket)
    certificate: dict[str, Any] = sock.getpeercert() or {}
    names = {name: value for group in certificate.get("issuer", ()) for name, value in group}
    issuer = names.get("commonName") or names.get("organizationName") or "an authority without a name"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    days = (ends - datetime.now(UTC)).days
    soon = f", in {days} day{'' if days == 1 else 's'}" if days < _SOON else ""
    return f"{sock.version()}, certificate by {issuer}, until {ends:%Y-%m-%d}{soon}"
