"""`Provider`: the front door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pixir_sync.cancellation import CancelToken
from pixir_sync.config import ProviderConfig, Timeouts
from pixir_sync.credentials import check_headers
from pixir_sync.engine import Engine
from pixir_sync.forking import importing
from pixir_sync.protocol.checks import encoded
from pixir_sync.protocol.checks import text as check_text
from pixir_sync.protocol.codec import loads
from pixir_sync.protocol.errors import InvalidRequest, ProviderClosed
from pixir_sync.protocol.request import make_request
from pixir_sync.protocol.result import Result
from pixir_sync.sources import resolve, setting
from pixir_sync.stream import ResponseStream
from pixir_sync.transports.base import Transport
from pixir_sync.transports.http.transport import HttpTransport
from pixir_sync.transports.ws.transport import WebSocketTransport
from pixir_sync.turn import OnPayload, Turn
from pixir_sync.warm_up import warm_up

if TYPE_CHECKING:
    from pixir_sync.transports.http.rest import RestClient

__all__ = ["Provider"]

_COMPACTED = ("model", "input", "instructions", "previous_response_id", "prompt_cache_key")
_PAGE = 100  # the most that the API gives at once


class Provider:
    """A place to send model calls to. Threads share it; it opens nothing before the first call.

    It pickles: its configuration travels, its connections do not; a key given as an argument travels, a key of the environment
    is read again. It is a context manager. What is not given may come from the environment, or from the configuration file.

    Args:
        model: the model of calls that name none. Default: `catalog.DEFAULT_MODEL`.
        api_key: a string, or a callable that gives one. Default: the endpoint's variable (``OPENAI_API_KEY``), read at each call.
        credential: an object with ``headers()`` and ``identity``, in place of a key (`credentials.Credential`).
        endpoint: the name of a preset (`endpoints.PRESETS`). base_url: where it is, default the preset's; plain http goes to this
            machine only; ``#`` at its end: no version path (as ever), ``##``: it is the responses' URL. websocket_url: likewise.
        transport: ``"auto"`` (WebSocket, and HTTP where that cannot be had), ``"websocket"``, ``"http_sse"`` (alias ``"sse"``),
            or a `Transport`.
        continuation: when a turn sends only what is new: ``"auto"``, ``"exact"`` (no other field changed) or ``"off"``; over HTTP
            the whole input is sent always.
        timeouts: `Timeouts`, or one number: the idle limit in seconds. retry: `RetryPolicy`, or one number: the retries.
        keepalive, pool, network: `Keepalive`, `PoolOptions`, `Network`.
        organization, project, originator: sent as headers.
        requests_per_minute: a limit that all threads share. Default: none. store: whether responses are kept. Default: false.
        hooks: a callable, or several, that get a `TurnRecord` of each turn that has ended (`Hook`).
        config: a `ProviderConfig` that holds any of these; an option given beside it wins, a field that has its default says
            nothing.

    Raises:
        InvalidRequest: for an unknown option or a wrong value; it names the nearest one.
    """

    def __init__(self, **options: Any) -> None:
        self._config = resolve(options)
        self._engine: Engine | None = None
        self._start()

    def _start(self) -> None:
        """Everything but the configuration, which is all that a pickle carries."""
        config = self._config
        self._token = CancelToken()
        self._http = HttpTransport(config)
        given = config.transport
        if isinstance(given, Transport):
            transports: dict[str, Transport] = {given.name: given}
        elif isinstance(given, str):
            transports = {} if given == "websocket" else {"http_sse": self._http}
            if given in ("auto", "websocket") and config.offers_websocket:
                transports = {"websocket": WebSocketTransport(config), **transports}
        else:
            raise InvalidRequest(f"transport must be a Transport, which {type(given).__name__} does not inherit from")
        preference = "auto" if given == "auto" else next(iter(transports))
        self._engine = Engine(config, config.credentials(), transports, preference)
        found = transports.get("websocket")
        self._websocket = found if isinstance(found, WebSocketTransport) else None

    @property
    def config(self) -> ProviderConfig:
        """The configuration in force."""
        return self._config

    # Model calls.

    def stream(
        self,
        request: Any = None,
        *,
        session: str | None = None,
        scope: str | None = None,
        timeouts: Timeouts | Mapping[str, float | None] | float | None = None,
        headers: Mapping[str, str] | None = None,
        on_payload: OnPayload | None = None,
        cancel: CancelToken | None = None,
        **fields: Any,
    ) -> ResponseStream:
        """One model call, as a generator of events. The network starts with the first ``next()``.

        Args:
            request: a string, a list of input items, a mapping with wire names, or a `Request`.
            session: a name for the conversation, whose turns share a connection. scope: keeps equal names apart.
            timeouts: over the provider's: `Timeouts`, a mapping of its fields, or the idle limit in seconds.
            headers: further headers of this call.
            on_payload: called with the body before it is sent; may change it, or return another one.
            cancel: a token that cancels this call, and any others that it was given to.
            **fields: `Request`'s, over those of ``request``.

        Raises:
            InvalidRequest: at once, for a wrong request. ProviderClosed: after `close`.
            PixirError: any other failure, from the iteration; also for an item that was sent before and was made wrong since.
        """
        engine = self._open()
        made = make_request(request, fields)
        for name, value in (("session", session), ("scope", scope)):
            if value is not None:
                check_text(name, value)
        known = engine.transports[engine.order[0]].known(session, scope)
        outline = engine.check(made, known)
        if cancel is not None and not isinstance(cancel, CancelToken):
            raise InvalidRequest(f"cancel must be a CancelToken, not {type(cancel).__name__}")
        if on_payload is not None and not callable(on_payload):
            raise InvalidRequest(f"on_payload must be callable, not {type(on_payload).__name__}")
        turn = Turn(
            engine,
            outline,
            session=session,
            scope=scope,
            timeouts=self._timeouts(timeouts),
            headers=check_headers(headers, "headers") if headers is not None else {},
            on_payload=on_payload,
            cancel=cancel,
        )
        return ResponseStream(turn)

    def complete(self, request: Any = None, **options: Any) -> Result:
        """Run `stream` to its end; takes the same arguments. Returns the `Result`, raises `PixirError`."""
        with self.stream(request, **options) as stream:
            return stream.result()

    def warm_up(self, request: Any, *, session: str, scope: str | None = None) -> bool:
        """Open the session's connection and prepare a request on it, without an answer; whether that was done.

        Takes 8 s at most. Raises `InvalidRequest` for a wrong request, and never for the network; over HTTP there is nothing to
        prepare, and it is false. The next turn may continue from it.
        """
        self._check_session(session, scope)
        engine, made = self._open(), make_request(request, {})
        outline = engine.check(made)
        return self._websocket is not None and warm_up(engine, self._websocket, outline, session, scope)

    def probe(self) -> str:
        """Make a tiny call; the id of the model that answered. Raises what the call raises."""
        result = self.complete("Reply with: ok", max_output_tokens=16)
        return result.model or str(self._config.model)

    def request_body_preview(self, request: Any = None, **fields: Any) -> dict[str, Any]:
        """The exact body that a first call with this request sends. No network, no credential. Raises `InvalidRequest`."""
        engine = self._open()
        body = engine.build(make_request(request, fields)).full(engine.origins)
        sent: dict[str, Any] = loads(encoded(engine.transports[engine.order[0]].preview(body)))
        return sent

    # The HTTP side of the API.

    def compact(self, request: Any = None, **fields: Any) -> dict[str, Any]:
        """Compact a conversation: the server's object, whose ``output`` begins a new history. Raises `PixirError`."""
        engine = self._open()
        body = engine.build(make_request(request, fields)).full(engine.origins)
        return self._rest().post("/responses/compact", {n: body[n] for n in _COMPACTED if n in body}, self._token)

    def retrieve(self, id: str) -> dict[str, Any]:
        """A stored response. Raises `ProviderError` with status 404 where there is none."""
        return self._rest().get(self._rest().response_path(id), self._token)

    def delete(self, id: str) -> dict[str, Any]:
        """Delete a stored response; the server's confirmation."""
        return self._rest().delete(self._rest().response_path(id), self._token)

    def cancel_response(self, id: str) -> dict[str, Any]:
        """Cancel a response that runs in the background; the server's object."""
        return self._rest().post(self._rest().response_path(id, "/cancel"), None, self._token)

    def input_items(self, id: str) -> list[dict[str, Any]]:
        """All the input items of a stored response, oldest first. The server gives them page by page."""
        return self._rest().rows(self._rest().response_path(id, f"/input_items?order=asc&limit={_PAGE}"), self._token)

    # The catalogue.

    def models(self) -> list[str]:
        """The ids of the models that the server offers. Raises `PixirError`."""
        rows = self._rest().rows("/models", self._token)
        return [row["id"] for row in rows if isinstance(row.get("id"), str)]

    def default_model(self) -> str:
        """The model of calls that name none."""
        return str(self._config.model)

    def model_supported(self, id: str) -> bool:
        """Whether the server offers this model. Raises `PixirError`."""
        check_text("id", id)
        return id in self.models()

    # Lifecycle.

    def has_session(self, session: str, scope: str | None = None) -> bool:
        """Whether a connection is kept for this session; never over HTTP."""
        self._check_session(session, scope)
        return self._websocket is not None and self._websocket.has_session(session, scope)

    def release(self, session: str, scope: str | None = None) -> None:
        """Close a session's connection, if there is one; where a turn runs on it, after that turn."""
        self._check_session(session, scope)
        if self._websocket is not None:
            self._websocket.release(session, scope)

    def drop_connections(self) -> None:
        """Cut every idle WebSocket without a word, as a network does: to test or show what a loss does to a program."""
        if self._websocket is not None:
            self._websocket.drop()

    def close(self) -> None:
        """End the streams that run (with `ProviderClosed`) and close every connection. Idempotent; from any thread."""
        engine = self._engine
        if engine is None or engine.closed:
            return
        engine.closed = True
        for token in [self._token, *list(engine.live.values())]:
            token.cancel("closed")
        for transport in engine.transports.values():
            transport.close()
        self._http.close()
        engine.hooks.settle()

    def stats(self) -> dict[str, Any]:
        """Counters since the provider was made: connections, turns, replays by reason, fallbacks, errors, bytes, failed hooks."""
        assert self._engine is not None
        self._engine.hooks.settle()
        found = self._engine.stats.snapshot()
        found["connections"]["live"] = self._http.live
        if self._websocket is not None:
            of_websocket = self._websocket.stats()
            found["connections"]["live"] += of_websocket.pop("live")
            found["websocket"] = of_websocket
        return found

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self._config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._config = state["config"]
        self._start()

    def __repr__(self) -> str:
        state = " closed" if self._engine is not None and self._engine.closed else ""
        shown = self._config.url.partition("?")[0]  # a query may hold a key
        return f"<Provider {self._config.model} {shown}{state}>"

    def _open(self) -> Engine:
        if self._engine is None or self._engine.closed:
            raise ProviderClosed("the provider is closed")
        return self._engine

    def _rest(self) -> RestClient:
        with importing:
            from pixir_sync.transports.http.rest import RestClient
        engine = self._open()
        return RestClient(self._config, self._http.session, engine.authorize, engine.refresher)

    def _timeouts(self, given: Any) -> Timeouts:
        if given is None:
            return self._config.timeouts
        if isinstance(given, Mapping):
            setting("timeouts", given)
            return replace(self._config.timeouts, **given)
        made: Timeouts = setting("timeouts", given)
        return made if isinstance(given, Timeouts) else replace(self._config.timeouts, idle=made.idle)

    def _check_session(self, session: str, scope: str | None) -> None:
        check_text("session", session)
        if scope is not None:
            check_text("scope", scope)
