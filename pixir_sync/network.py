"""One network setting for every transport: TLS, the proxy, TCP, and the headers that all requests share.

Rules kept here:

* The proxy is decided once, here: a chosen one is never bypassed, one from the environment honours ``NO_PROXY``.
* One SSL context per provider: making one costs more than a hundred turns.
* A connection is opened under one deadline for all its addresses, and ends when the call is cancelled. Name resolution cannot
  be bounded from Python.
* Every failure is `ConnectFailed`, `ConnectTimeout`, `Cancelled` or `ProviderClosed`; no message holds a credential.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pixir_sync.cancellation import CancelToken, cancelled
from pixir_sync.config import Network, ProviderConfig
from pixir_sync.deadline import Deadline
from pixir_sync.forking import PlainSocket, TLSSocket, importing
from pixir_sync.protocol.errors import ConnectFailed, ConnectTimeout, InvalidRequest
from pixir_sync.version import __version__

__all__ = ["connect_tcp", "merged", "proxy_for", "proxy_source", "shared_headers", "tls_context", "user_agent"]

_SLICE = 0.05  # seconds between looks at the cancel flag while a connection is being opened; nothing wakes that wait


def user_agent() -> str:
    """Our own name, the version, the interpreter and the system."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"pixir-sync/{__version__} Python/{python} {sys.platform}"


def shared_headers(config: ProviderConfig) -> dict[str, str]:
    """The headers of every request that do not depend on the call; the user's own win over them."""
    headers = {"User-Agent": user_agent()}
    for name, value in (("OpenAI-Organization", config.organization), ("OpenAI-Project", config.project),
                        ("originator", config.originator)):  # fmt: skip
        if value is not None:
            headers[name] = value
    return merged(headers, config.network.headers or {})


def merged(*groups: Mapping[str, str]) -> dict[str, str]:
    """Headers put together, whatever the case of their names: of equal names the last one counts."""
    found: dict[str, tuple[str, str]] = {}
    for group in groups:
        for name, value in group.items():
            found[name.lower()] = name, value
    return dict(found.values())


def tls_context(network: Network, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """The SSL context: the given bundle, else the environment's, else the system's, else certifi's.

    Raises `InvalidRequest` where a file that was named cannot be used.
    """
    bundle, source = network.ca_bundle, "network.ca_bundle"
    if bundle is None and network.trust_env:
        source = next((name for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if environ.get(name)), source)
        bundle = environ.get(source)
    try:
        if bundle is not None and os.path.isdir(bundle):
            context = ssl.create_default_context(capath=bundle)
        elif bundle is None and not network.trust_env:
            cafile, capath = _built_in_authorities()
            context = ssl.create_default_context(cafile=cafile, capath=capath)
        else:
            context = ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"{source}: the certificates cannot be read: {type(error).__name__}") from None
    if bundle is None and not context.cert_store_stats()["x509_ca"] and not _has_system_authorities():
        with importing:
            import certifi

        context.load_verify_locations(certifi.where())
    if network.client_cert is not None:
        chain = (network.client_cert,) if isinstance(network.client_cert, str) else network.client_cert
        try:
            context.load_cert_chain(*chain)
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(f"network.client_cert cannot be read: {type(error).__name__}") from None
    context.sslsocket_class = TLSSocket
    return context


def _built_in_authorities() -> tuple[str | None, str | None]:
    """The file and the directory where OpenSSL looks by itself, whatever ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` say.

    Where neither is there it would look at those again: then certifi's.
    """
    paths = ssl.get_default_verify_paths()
    cafile = paths.openssl_cafile if os.path.isfile(paths.openssl_cafile) else None
    capath = paths.openssl_capath if os.path.isdir(paths.openssl_capath) else None
    if cafile is None and capath is None:
        with importing:
            import certifi

        cafile = certifi.where()
    return cafile, capath


def _has_system_authorities() -> bool:
    """Whether OpenSSL finds authorities in its default directory, which it reads only when it needs one."""
    path = ssl.get_default_verify_paths().capath
    return bool(path and os.path.isdir(path) and os.listdir(path))


def proxy_for(url: str, network: Network) -> str | None:
    """The proxy for a URL, or None: the one given, else the environment's unless ``NO_PROXY`` names the host.

    Raises `InvalidRequest` for a proxy of the environment whose kind is not supported.
    """
    if network.proxy is not None:
        return network.proxy
    if not network.trust_env:
        return None
    found, bypassed = _environment_proxy(url)
    if not found or bypassed:
        return None
    if "://" not in found:
        found = f"http://{found}"
    if urlsplit(found).scheme not in ("http", "https"):
        raise InvalidRequest(f"the environment names a {urlsplit(found).scheme} proxy; only http and https ones are supported")
    return found


def proxy_source(url: str, network: Network) -> tuple[str, bool]:
    """Where the proxy for a URL comes from, and whether ``NO_PROXY`` names the host, so that it is not used.

    ``network.proxy``, or the name of an environment variable; ``""`` where nothing names one.
    """
    if network.proxy is not None:
        return "network.proxy", False
    found, bypassed = _environment_proxy(url) if network.trust_env else ("", False)
    if not found:
        return "", False
    kinds = f"{_proxied_as(url)}_proxy", "all_proxy"
    named = [name for name, value in os.environ.items() if value == found and name.lower() in kinds]
    return min(named, key=lambda name: (kinds.index(name.lower()), name.isupper())), bypassed


def _proxied_as(url: str) -> str:
    scheme = urlsplit(url).scheme
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


def _environment_proxy(url: str) -> tuple[str, bool]:
    """The proxy that the environment names for a URL, as it stands there, and whether ``NO_PROXY`` names the host."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return "", False  # what follows costs a tenth of a cold start: it imports the HTTP client of the standard library
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    proxies = getproxies_environment()
    found = proxies.get(_proxied_as(url)) or proxies.get("all") or ""
    return found, bool(found and proxy_bypass_environment(urlsplit(url).netloc, proxies))


def connect_tcp(
    host: str, port: int, deadline: Deadline, cancel: CancelToken, kind: type[socket.socket] = PlainSocket
) -> socket.socket:
    """A connected socket of this kind, non-blocking. Raises what the module's rules say.

    Every address of the host gets its share of the time that is left, so that one that is dead does not use up all of it.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(f"the name {host} could not be resolved", phase="connect") from error
    last: OSError | None = None
    for at, (family, _, protocol, _, address) in enumerate(addresses):
        left = deadline.timeout()
        share = deadline if left is None else Deadline(left / (len(addresses) - at))
        try:
            return _open(kind, family, protocol, address, share, cancel)
        except OSError as error:  # an address family that this system lacks, too
            last = error
    if isinstance(last, TimeoutError):
        raise ConnectTimeout(f"{host}:{port} did not accept a connection in time", phase="connect") from last
    reason = f": {os.strerror(last.errno)}" if last is not None and last.errno else ""
    raise ConnectFailed(f"{host}:{port} cannot be reached{reason}", phase="connect") from last


def _open(
    kind: type[socket.socket], family: int, protocol: int, address: Any, deadline: Deadline, cancel: CancelToken
) -> socket.socket:
    sock = kind(family, socket.SOCK_STREAM, protocol)
    try:
        _tune(sock)
        _connect(sock, address, deadline, cancel)
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    """No delay for small writes; a dead peer is noticed by the system where it can."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 60_000)):
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):  # known by name, refused by this kernel: a help that we can do without
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _connect(sock: socket.socket, address: Any, deadline: Deadline, cancel: CancelToken) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR):
        raise OSError(code, os.strerror(code))
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while code != 0:
        if cancel.cancelled:
            raise cancelled(cancel)
        if deadline.passed:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if poll.poll(1000 * min(_SLICE, deadline.remaining())):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code != 0:
                raise OSError(code, os.strerror(code))
            return
