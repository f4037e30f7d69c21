"""The settings of a `Provider`: small frozen data classes, checked when they are made. Times in seconds, None means no limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pixir_sync.credentials import ApiKey, CallableKey, Credential, EnvironmentKey, check_headers
from pixir_sync.endpoints import OTHER, PRESETS, Preset, recognised
from pixir_sync.protocol.checks import text as check_text
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.retry import RetryPolicy, non_negative
from pixir_sync.protocol.values import Value
from pixir_sync.urls import join, split

__all__ = ["BASE_VARIABLE", "TRANSPORTS", "Keepalive", "Network", "PoolOptions", "ProviderConfig", "Timeouts"]

BASE_VARIABLE = "OPENAI_BASE_URL"
TRANSPORTS = ("auto", "websocket", "http_sse", "sse")


@dataclass(frozen=True, eq=False, repr=False)
class Timeouts(Value):
    """The time limits of a call, in seconds; None = no limit. Raises `InvalidRequest` for a value that is not above 0.

    Attributes:
        connect: from name resolution to the end of the TLS handshake (a name server cannot be bounded from Python).
        pool: the wait for a free connection. write: the longest time without one byte accepted by the server.
        first_event: from sending to the first event; None means `idle`.
        idle: the longest wait for the server's next event while somebody waits for it; pings, comments and keepalive events
            do not count as events, and the time that the consumer takes does not count as waiting.
        total: wall clock over all attempts.
    """

    connect: float | None = 10
    pool: float | None = 30
    write: float | None = 60
    first_event: float | None = None
    idle: float | None = 600
    total: float | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            non_negative(f"timeouts.{f.name}", getattr(self, f.name), optional=True, positive=True)


@dataclass(frozen=True, eq=False, repr=False)
class Keepalive(Value):
    """Pings on WebSocket connections, in seconds: one every `interval`; without an answer for `timeout` the peer is dead."""

    interval: float = 20
    timeout: float = 20

    def __post_init__(self) -> None:
        for f in fields(self):
            non_negative(f"keepalive.{f.name}", getattr(self, f.name), positive=True)


@dataclass(frozen=True, eq=False, repr=False)
class PoolOptions(Value):
    """The pool of connections.

    Attributes:
        max_size: the most connections at once. max_idle, max_lifetime: seconds until an idle or an old one is retired; left at
            its default, each is shorter where the endpoint ends connections sooner (`endpoints.Preset`).
        max_retained_bytes: the most input that is kept for comparison, per connection.
        lanes: run several streams over one socket where the server can.
    """

    max_size: int = 128
    max_idle: float | None = 1800
    max_lifetime: float | None = 3000
    max_retained_bytes: int = 64 << 20
    lanes: bool = False

    def __post_init__(self) -> None:
        non_negative("pool.max_size", self.max_size, whole=True, positive=True)
        non_negative("pool.max_idle", self.max_idle, optional=True, positive=True)
        non_negative("pool.max_lifetime", self.max_lifetime, optional=True, positive=True)
        non_negative("pool.max_retained_bytes", self.max_retained_bytes, whole=True)
        if not isinstance(self.lanes, bool):
            raise InvalidRequest(f"pool.lanes must be true or false, not {type(self.lanes).__name__}")


@dataclass(frozen=True, eq=False, repr=False)
class Network(Value):
    """How to reach the server, for both transports alike.

    Attributes:
        proxy: ``http://`` or ``https://`` URL of a proxy (credentials in it are used and never shown); it is never bypassed.
        ca_bundle: a PEM file of authorities to trust instead of the system's. client_cert: a PEM file, or (certificate, key).
        headers: further headers of every request.
        trust_env: honour ``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE`` and the like.
        allow_insecure: allow plain http to other hosts than this one.
    """

    proxy: str | None = None
    ca_bundle: str | None = None
    client_cert: str | tuple[str, str] | None = None
    headers: Mapping[str, str] | None = None
    trust_env: bool = True
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        if self.proxy is not None:
            check_text("network.proxy", self.proxy)
            if split("network.proxy", self.proxy).scheme not in ("http", "https"):
                raise InvalidRequest("network.proxy must be an http:// or https:// URL")
        if self.ca_bundle is not None:
            check_text("network.ca_bundle", self.ca_bundle)
        cert: object = self.client_cert
        if not (cert is None or isinstance(cert, str) or (isinstance(cert, tuple) and len(cert) == 2)):
            raise InvalidRequest("network.client_cert must be a path, or a pair (certificate, key)")
        if self.headers is not None:
            object.__setattr__(self, "headers", check_headers(self.headers, "network.headers"))  # a copy: what was checked counts
        for name in ("trust_env", "allow_insecure"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"network.{name} must be true or false, not {type(getattr(self, name)).__name__}")

    def __repr__(self) -> str:
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return f"<Network {' '.join(given) or 'default'}>"


@dataclass(frozen=True, eq=False, repr=False)
class ProviderConfig(Value):
    """Every option of `Provider`, as one value: ``Provider(config=ProviderConfig(model=…))``. The fields
    mean what `Provider` says of its options; options given beside it win over it.
    """

    model: str | None = None
    api_key: str | Callable[[], str] | None = field(default=None)
    credential: Any = None
    endpoint: str | None = None
    base_url: str | None = None
    websocket_url: str | None = None
    organization: str | None = None
    project: str | None = None
    originator: str | None = None
    transport: Any = "auto"
    continuation: str = "auto"
    timeouts: Timeouts = Timeouts()
    keepalive: Keepalive = Keepalive()
    retry: RetryPolicy = RetryPolicy()
    pool: PoolOptions = PoolOptions()
    network: Network = Network()
    requests_per_minute: int | None = None
    store: bool = False
    hooks: Any = ()

    def __repr__(self) -> str:
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return f"<ProviderConfig {' '.join(given) or 'default'}>"

    @property
    def service(self) -> str:
        """The name of the preset whose facts hold here: the endpoint's, else that of the URL; ``""`` for an unknown server."""
        if self.endpoint not in (None, "openai"):
            return self.endpoint
        found = "openai" if self.base_url is None else recognised(self.url) or ""
        return found if self.endpoint is None or found == "chatgpt" else "openai"

    @property
    def preset(self) -> Preset:
        """What is known of the server."""
        return PRESETS.get(self.service, OTHER)

    @property
    def url(self) -> str:
        """The HTTP base, without its marks (``#``) and without a slash at its end."""
        return (self.base_url or PRESETS[self.endpoint or "openai"].base_url or "").rstrip("#").rstrip("/")

    def address(self, path: str) -> str:
        """The URL of a path of the API, such as ``/responses``; a query of the base stays.

        A base that ends in ``##`` is the URL of ``/responses`` itself. Raises `InvalidRequest` for what is not below it.
        """
        if not (self.base_url or "").endswith("##"):
            return join(self.url, path)
        if not path.startswith("/responses"):
            raise InvalidRequest("base_url ends in ##, so it is the URL of the responses: nothing else of the API is known")
        below = path.removeprefix("/responses")
        return join(self.url, below) if below else (self.base_url or "").removesuffix("##")

    @property
    def websocket_address(self) -> str:
        """The URL of the WebSocket: the one given, else the HTTP one's with its scheme changed."""
        return self.websocket_url or "ws" + self.address("/responses").removeprefix("http")

    @property
    def offers_websocket(self) -> bool:
        """Whether a WebSocket may be tried: the endpoint offers one, or its URL was given."""
        return self.preset.websocket or self.websocket_url is not None

    @property
    def chatgpt(self) -> bool:
        """Whether the endpoint is the ChatGPT backend."""
        return self.service == "chatgpt"

    def credentials(self) -> Credential:
        """The credential of this configuration.

        A key of the environment is that of the service; ``OPENAI_API_KEY`` stands in for it at ``OPENAI_BASE_URL`` only, because
        these two are set as a pair.
        """
        if self.credential is not None:
            found: Credential = self.credential
            return found
        if self.api_key is not None:
            return ApiKey(self.api_key) if isinstance(self.api_key, str) else CallableKey(self.api_key)
        preset = self.preset
        paired = self.base_url is not None and self.base_url == os.environ.get(BASE_VARIABLE, "").strip()
        also = "OPENAI_API_KEY" if paired and (self.endpoint is None or preset.own_server) else None
        return EnvironmentKey(preset.key_variable, also=also, needed=preset.needs_key)
