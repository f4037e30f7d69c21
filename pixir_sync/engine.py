"""`Engine`: what all the calls of one provider share. The turn engine reads it; it knows nothing of streams.

Rules kept here:

* What a finished or abandoned call reports is appended to a deque, which needs no lock: a generator's ``finally`` may run in
  the garbage collector, on a thread that holds one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pixir_sync.cancellation import FORKED, CancelToken
from pixir_sync.catalog import reasons
from pixir_sync.config import ProviderConfig
from pixir_sync.credentials import Credential, check_headers, secrets_of
from pixir_sync.forking import watch
from pixir_sync.hooks.delivery import Hooks
from pixir_sync.protocol.compare import copied
from pixir_sync.protocol.errors import InvalidRequest, NotAuthenticated, PixirError
from pixir_sync.protocol.intake import Known
from pixir_sync.protocol.request import Body, Outline, Request, build, outline
from pixir_sync.protocol.result import Evidence
from pixir_sync.protocol.retry import RequestRate
from pixir_sync.refresh import Refresher
from pixir_sync.transports.base import Transport

__all__ = ["Engine", "OnPayload", "Origins", "Stats"]

log = logging.getLogger("pixir_sync")

OnPayload = Callable[[dict[str, Any]], Mapping[str, Any] | None]


def _chance() -> float:
    """A number from 0 to 1, for a wait. The module ``random`` takes 1 ms of a cold start, and few calls wait."""
    return int.from_bytes(os.urandom(4)) / 2**32


def _nothing(message: str) -> None:
    """A warning that somebody else will give."""


class Stats:
    """Counters. `note` may be called anywhere, from finalisers too; `snapshot` adds up."""

    _FOLD_AT = 1_000

    def __init__(self) -> None:
        self._notes: deque[tuple[str, int]] = deque()
        self._totals: Counter[str] = Counter()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew, in a child process: it counts its own."""
        # Guards the totals while notes are added to them.
        self._lock = threading.Lock()
        self._notes.clear()
        self._totals.clear()

    def note(self, name: str, amount: int = 1) -> None:
        """Count something. Takes no lock."""
        self._notes.append((name, amount))

    def fold(self) -> None:
        """Keep the notes from growing; for the ordinary path of a call."""
        if len(self._notes) > self._FOLD_AT:
            self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        """The totals as nested plain data: ``turns.http_sse.full`` is ``["turns"]["http_sse"]["full"]``."""
        with self._lock:
            while self._notes:
                name, amount = self._notes.popleft()
                self._totals[name] += amount
            totals = dict(self._totals)
        found: dict[str, Any] = {
            "connections": {"opened": 0, "reused": 0, "live": 0}, "turns": {}, "replays": {}, "fallbacks": {}, "bytes_sent": 0,
            "errors": {}, "hook_failures": 0,
        }  # fmt: skip
        for name, amount in sorted(totals.items()):
            *groups, last = name.split(".")
            place = found
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = amount
        return found


class Origins:
    """Which model a reasoning item came from, by its encrypted content: another model refuses it. Bounded, oldest out first."""

    LIMIT = 4_096

    def __init__(self) -> None:
        self._models: dict[int, str] = {}
        self.after_fork()

    def after_fork(self) -> None:
        """What is known stays known in a child process."""
        # Guards the dict while it is bounded.
        self._lock = threading.Lock()

    def note(self, items: Iterable[dict[str, Any]], model: str) -> None:
        """Remember the reasoning among these output items."""
        found = [item["encrypted_content"] for item in items if item.get("type") == "reasoning"
                 and isinstance(item.get("encrypted_content"), str)]  # fmt: skip
        if found:
            with self._lock:
                for content in found:
                    self._models[hash(content)] = model
                while len(self._models) > self.LIMIT:
                    del self._models[next(iter(self._models))]

    def __call__(self, encrypted_content: str) -> str | None:
        """The model that this came from, None where that is not known."""
        return self._models.get(hash(encrypted_content))


_NO_HEADERS: Mapping[str, str] = {}


class _OfTheCredential:
    """What a credential raises is told as an error of it, without its words. (A generator in its place costs four times this.)"""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PixirError):
            error.phase = "auth"
        elif isinstance(error, Exception):
            raise NotAuthenticated(f"the credential could not be had: {type(error).__name__}", phase="auth") from error


_of_the_credential = _OfTheCredential()


class Engine:
    """The shared part of a provider. Threads share it.

    Attributes:
        refresher: has the credential refreshed. transports: the strategies by name; `order` says which are tried, first to last.
        live: the cancel tokens of the calls that run, by number: single dict operations, no lock.
        closed: whether the provider was closed.
    """

    def __init__(
        self, config: ProviderConfig, credential: Credential, transports: Mapping[str, Transport], preference: str
    ) -> None:
        self.config = config
        self.credential = credential
        self.refresher = Refresher(getattr(credential, "refresh", None))
        self.transports = transports
        self.order = tuple(transports)
        self._preset = config.preset
        self.preference = preference
        self.stats = Stats()
        self.origins = Origins()
        self.live: dict[object, CancelToken] = {}
        self.closed = False
        self.chance = _chance
        hooks = config.hooks if isinstance(config.hooks, (list, tuple)) else (config.hooks,)
        self.hooks = Hooks(hooks, self.stats.note)
        self._rate = RequestRate(config.requests_per_minute) if config.requests_per_minute else None
        # Guards the request rate.
        self._rate_lock = threading.Lock()
        watch(self)

    def after_fork(self) -> None:
        """In a child process: the calls that run are the parent's, and raise here; everything else goes on with fresh locks."""
        for token in self.live.values():
            token.reason = FORKED
        self.live.clear()
        self._rate_lock = threading.Lock()
        self.refresher.after_fork()
        self.stats.after_fork()
        self.hooks.after_fork()
        self.origins.after_fork()

    def evidence(self) -> Evidence:
        """The evidence of a new call. Where the endpoint offers no WebSocket none is tried, and this says why."""
        made = Evidence(transport_preference=self.preference)
        if self.preference == "auto" and "websocket" not in self.transports:
            made.fallback_reason = "websocket_unsupported"
            made.fallback_message = f"{self._preset.title} offers no WebSocket"
        return made

    def outline(self, request: Request) -> Outline:
        """What a request asks for beside its input, under this provider's defaults. Raises `InvalidRequest`."""
        assert self.config.model is not None
        preset = self._preset
        return outline(
            request,
            model=self.config.model,
            store=self.config.store,
            reasons=reasons if preset.encrypted_reasoning else None,
            stateless=None if preset.store else preset.title,
            cache_retention=preset.cache_retention,
        )

    def check(self, request: Request, known: Known = ()) -> Outline:
        """What `snapshot` would refuse now is refused, with `InvalidRequest`. ``known``: the inputs that it may begin with.

        The snapshot of the same warns, and compares all of what it begins with.
        """
        found = self.outline(request)
        build(found, warn=_nothing, known=known, glance=True)
        return found if found.constant else found._replace(fields={}, parse=None)  # it is made anew: keep nothing of it till then

    def build(self, request: Request) -> Body:
        """The body of a request. Raises `InvalidRequest`."""
        return build(self.outline(request), warn=log.warning)

    def snapshot(self, found: Outline, known: Known = (), on_payload: OnPayload | None = None) -> Body:
        """The body of a request as it is now, and as ``on_payload`` wants it. Raises `InvalidRequest`.

        Fields that may have changed since they were checked are the caller's own objects: they are read again, and copied.
        """
        found = found if found.constant else self.outline(found.given)
        body = build(found, warn=log.warning, known=known)
        try:
            if on_payload is None:
                return body.frozen(constant=found.constant)
            payload = body.frozen().payload
            changed = on_payload(payload)
            return body.replaced(copied(payload if changed is None else changed))  # who wrote it may keep it, and change it later
        except RecursionError:
            raise InvalidRequest("the request is nested too deeply, or contains itself") from None

    def authorize(self, secrets: list[str], more: Mapping[str, str] = _NO_HEADERS) -> dict[str, str]:
        """The credential's headers now. For a transport that sends them, once per attempt.

        ``secrets`` becomes their values, and those among the other headers, the call's own (``more``) too. Raises
        `NotAuthenticated` with the phase ``auth``, or `InvalidRequest`.
        """
        with _of_the_credential:
            headers = check_headers(self.credential.headers(), "credential.headers()")
            others = {**(self.config.network.headers or {}), **more}
            secrets[:] = [*secrets_of(headers, every=True), *secrets_of(others)]
            return headers

    def identity(self) -> str:
        """Whose connections a call may use. Raises as `authorize` does."""
        with _of_the_credential:
            found: object = self.credential.identity
            if not isinstance(found, str):
                raise InvalidRequest(f"credential.identity must be a string, not {type(found).__name__}")
            return found

    def wait_for_rate(self) -> float:
        """The seconds to wait under ``requests_per_minute``; the place is taken."""
        if self._rate is None:
            return 0.0
        with self._rate_lock:
            return self._rate.reserve(time.monotonic())

    def place_of(self, transport: str) -> tuple[str | None, int | None]:
        """The host and the port that a transport of this name speaks to; None for one of the caller's own."""
        if transport not in ("websocket", "http_sse"):
            return None, None
        config = self.config
        parts = urlsplit(config.websocket_address if transport == "websocket" else config.address("/responses"))
        return parts.hostname, parts.port or (443 if parts.scheme in ("https", "wss") else 80)

    def count_attempt(self, evidence: Evidence) -> None:
        """Note what an attempt used. Takes no lock."""
        note = self.stats.note
        note("bytes_sent", evidence.bytes_sent)
        if evidence.connection_reused:
            note("connections.reused")
        elif evidence.connect_ms is not None:
            note("connections.opened")
