"""The plain requests of the API: one JSON answer each, with the same retry rule as a streamed call."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pixir_sync.cancellation import CancelToken, cancelled
from pixir_sync.config import ProviderConfig
from pixir_sync.deadline import Deadline
from pixir_sync.network import merged, shared_headers
from pixir_sync.protocol.checks import encoded, plain_text
from pixir_sync.protocol.codec import CodecError, loads
from pixir_sync.protocol.errors import InvalidRequest, InvalidResponse, PixirError
from pixir_sync.protocol.turn import Action, Situation, decide
from pixir_sync.refresh import Refresher
from pixir_sync.transports.http.guard import Guard
from pixir_sync.transports.http.session import HttpSession

__all__ = ["RestClient"]

_LIMIT = 64 << 20


class RestClient:
    """``GET``, ``POST`` and ``DELETE`` with JSON. Threads share it."""

    def __init__(
        self,
        config: ProviderConfig,
        session: HttpSession,
        authorize: Callable[[list[str]], dict[str, str]],
        refresher: Refresher,
    ) -> None:
        """``authorize`` gives the credential's headers, once per attempt, and puts what is secret of them into its list."""
        self._config = config
        self._session = session
        self._authorize = authorize
        self._refresher = refresher
        self._headers = shared_headers(config)

    def get(self, path: str, cancel: CancelToken) -> dict[str, Any]:
        return self._call("GET", path, None, cancel)

    def post(self, path: str, body: dict[str, Any] | None, cancel: CancelToken) -> dict[str, Any]:
        return self._call("POST", path, body, cancel)

    def delete(self, path: str, cancel: CancelToken) -> dict[str, Any]:
        return self._call("DELETE", path, None, cancel)

    def rows(self, path: str, cancel: CancelToken) -> list[dict[str, Any]]:
        """The objects of a list that the server gives page by page. Raises `InvalidResponse` for what is no list."""
        found: list[dict[str, Any]] = []
        query, seen = "", set[str]()
        while True:
            answer = self.get(path + query, cancel)
            rows = answer.get("data")
            if not isinstance(rows, list):
                raise InvalidResponse("the server answered with something that is no list", request_sent=True)
            found += [row for row in rows if isinstance(row, dict)]
            last = found[-1].get("id") if found and rows else None
            if answer.get("has_more") is not True or not isinstance(last, str):
                return found
            if last in seen:
                raise InvalidResponse("the server gives the same page of a list again and again", request_sent=True)
            seen.add(last)
            query = f"{'&' if '?' in path else '?'}after={quote(last, safe='')}"

    @staticmethod
    def response_path(response_id: str, suffix: str = "") -> str:
        """The path of a stored response. Raises `InvalidRequest` for what is no id."""
        plain_text("id", response_id)
        if response_id in (".", ".."):
            raise InvalidRequest("id is no response id")
        return f"/responses/{quote(response_id, safe='')}{suffix}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None, cancel: CancelToken) -> dict[str, Any]:
        data = None if body is None else encoded(body)
        timeouts = self._config.timeouts
        total = Deadline(timeouts.total)
        situation = Situation(policy=self._config.retry, refreshable=self._refresher.renew is not None)
        while True:
            guard, refreshed = Guard(timeouts, total, cancel), self._refresher.count
            try:
                return self._once(method, path, data, guard)
            except PixirError as error:
                situation.connection_reused = guard.reused
                decision = decide(error, situation, random.random())
                if decision.action is Action.RAISE or decision.delay > total.remaining():
                    raise
                situation.retries += decision.action is Action.RETRY
                if decision.action is Action.REFRESH:
                    self._refresher.refresh(refreshed, cancel, total)
                if decision.delay and cancel.wait(decision.delay):
                    raise cancelled(cancel) from None

    def _once(self, method: str, path: str, data: bytes | None, guard: Guard) -> dict[str, Any]:
        secrets: list[str] = []
        credential = self._authorize(secrets)
        headers = merged({"Accept": "application/json"}, self._headers, credential)
        if data is not None:
            headers["Content-Type"] = "application/json"
        response = self._session.exchange(method, self._config.address(path), headers, data, guard, secrets)
        try:
            text = response.read_all(_LIMIT)
        except BaseException:
            response.abandon()
            raise
        response.finish(0.25)
        try:
            answer = loads(text) if text else {}
        except CodecError:
            answer = None
        if not isinstance(answer, dict):
            raise InvalidResponse("the server answered with something that is no JSON object", status=response.status,
                                  request_id=response.headers.get("x-request-id"))  # fmt: skip
        return answer
