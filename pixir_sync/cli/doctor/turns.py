"""Calls: one over the WebSocket, a second one that goes on from it, one over HTTP, and how their events came.

Rules kept here:

* They are `Provider`'s own calls, without a retry and without a fallback: the evidence in their results says how they ran.
* Events are called held back only where the picture leaves little else: a long silence, and then all of them at once. Where they
  came too quickly to tell, that is what is said.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pixir_sync.cli.doctor import words
from pixir_sync.cli.doctor.examination import Examination
from pixir_sync.config import ProviderConfig, Timeouts
from pixir_sync.protocol.errors import PixirError
from pixir_sync.protocol.items import user
from pixir_sync.protocol.result import Result
from pixir_sync.protocol.retry import RetryPolicy
from pixir_sync.provider import Provider

__all__ = ["Calls"]

_FIRST, _SECOND = "Count from one to ten, in words.", "Once more, please."
_MOST = 1024  # tokens: enough for a model that reasons to come to an end, without which nothing can be continued
_SILENCE, _AT_ONCE, _APART = 0.4, 0.02, 0.05  # seconds before, and between the first and the last event: held back; as written
_WAY = ("dns", "tcp", "proxy", "tls", "key")
_LEAST = 4  # events that say something about how they came


@dataclass(frozen=True)
class _Answer:
    """A call's result, and when its events came: seconds from its beginning, its connection left out."""

    result: Result
    arrivals: Sequence[float]

    @property
    def says(self) -> str:
        return f"{self.result.model or 'the model'} answered in {len(self.arrivals)} events, the first after {_ms(self.first)}"

    @property
    def first(self) -> float:
        return max(0.0, self.arrivals[0] - (self.result.provider_metadata.get("connect_ms") or 0.0) / 1000)

    @property
    def spread(self) -> float:
        return self.arrivals[-1] - self.arrivals[0]

    @property
    def held_back(self) -> bool:
        return len(self.arrivals) >= _LEAST and self.first >= _SILENCE and self.spread <= _AT_ONCE

    @property
    def as_written(self) -> bool:
        return len(self.arrivals) >= _LEAST and self.spread >= _APART


class Calls:
    """The calls of one run. Not for several threads."""

    def __init__(self, exam: Examination, config: ProviderConfig, limit: float) -> None:
        self._exam = exam
        limits = Timeouts(connect=limit, pool=limit, write=limit, first_event=3 * limit, idle=3 * limit, total=3 * limit)
        self._config = replace(config, timeouts=limits, retry=RetryPolicy(max_retries=0))
        self._answers: dict[str, _Answer] = {}

    def examine(self) -> None:
        """Make the calls that what was found before leaves possible."""
        exam = self._exam
        if exam.transport != "http_sse" and exam.can(("websocket", "continuation"), (*_WAY, "upgrade", "open")):
            with Provider(config=replace(self._config, transport="websocket")) as provider:
                self._over_websocket(provider)
        # What is limited stopped the WebSocket alone.
        if exam.transport != "websocket" and exam.can(("http",), [name for name in _WAY if exam.state(name) == "wrong"]):
            self._over_http()
        self._streaming()

    def _over_websocket(self, provider: Provider) -> None:
        exam, history = self._exam, [user(_FIRST)]
        exam.begin("websocket")
        try:
            answer = _asked(provider, history)
        except PixirError as error:
            self._failed_on_websocket(error, "over the WebSocket")
            exam.skip(("continuation",), "needs websocket")
            return
        exam.ok(answer.says)
        self._answers["websocket"] = answer
        if (ended := answer.result.finish_reason) != "stop":
            exam.skip(("continuation",), f"the first answer ended by {ended}: there is nothing to go on from")
            return
        exam.begin("continuation")
        try:
            second = _asked(provider, [*history, *answer.result.output_items, user(_SECOND)])
        except PixirError as error:
            self._failed_on_websocket(error, "over the WebSocket, in a second turn")
            return
        self._continued(second.result.provider_metadata)

    def _failed_on_websocket(self, error: PixirError, way: str) -> None:
        """Where HTTP would take over, calls still work."""
        takes_over = self._exam.transport == "auto" and words.falls_back(error)
        (self._exam.limited if takes_over else self._exam.wrong)(*words.in_turn(error, way, self._exam.variable))

    def _continued(self, evidence: dict[str, Any]) -> None:
        """Whether the second turn sent only what is new."""
        exam = self._exam
        if evidence["used_previous_response_id"]:
            sent, total = evidence["input_items_sent"], evidence["input_items_total"]
            exam.ok(f"the second turn sent {sent} of {total} items, on previous_response_id")
            return
        reason = evidence["continuation_reset_reason"] or "no reason given"
        exam.limited(f"the second turn was sent whole: {words.RESET.get(reason, reason)}",
                     "A gateway may spread one connection over several servers, or close it after each answer: ask who runs it.")

    def _over_http(self) -> None:
        import pixir_sync.transports.http.session  # noqa: F401  # so that its time is not taken for the server's

        exam = self._exam
        exam.begin("http")
        try:
            with Provider(config=replace(self._config, transport="http_sse")) as provider:
                self._answers["http"] = answer = _asked(provider, [user(_FIRST)])
        except PixirError as error:
            explained = words.in_turn(error, "over HTTP", exam.variable)
            (exam.limited if "websocket" in self._answers else exam.wrong)(*explained)
            return
        exam.ok(answer.says)

    def _streaming(self) -> None:
        """How the events came, of each answer that there is."""
        exam, answers = self._exam, self._answers
        if not answers:
            exam.skip(("streaming",), "needs an answer")
            return
        exam.begin("streaming")
        seen = "; ".join(f"{name}: {len(answer.arrivals)} events over {_ms(answer.spread)}" for name, answer in answers.items())
        held = [name for name, answer in answers.items() if answer.held_back]
        if held:
            exam.limited(f"held back ({' and '.join(held)}): after a silence, the whole answer came at once; {seen}",
                         "The server, or something on the way, keeps an answer until it is whole: turn response buffering off "
                         "there (nginx: proxy_buffering off).")  # fmt: skip
        elif all(answer.as_written for answer in answers.values()):
            exam.ok(f"events come as they are written; {seen}")
        else:
            exam.ok(f"nothing to be seen of events that are held back, the answers were too quick to tell; {seen}")


def _asked(provider: Provider, history: list[dict[str, Any]]) -> _Answer:
    """Make a call and note when its events come. Raises `PixirError`."""
    began, arrivals = time.monotonic(), []
    with provider.stream(history, session="doctor", max_output_tokens=_MOST) as stream:
        for _ in stream:
            arrivals.append(time.monotonic() - began)
        return _Answer(stream.result(), arrivals)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
