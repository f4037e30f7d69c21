"""The writer of one response: its lifecycle around the parts of an answer.

Rules kept here:

* Order: created, in_progress (not of a warm-up); the parts; one terminal event with the whole output and the usage.
* ``finish`` is told the final response before the terminal event is given out, so that whoever sees that event can already
  continue from the response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pixir_sync.local.answers import Answer, Failed, Incomplete
from pixir_sync.local.output import Event, Output
from pixir_sync.local.parts import write
from pixir_sync.local.response import usage_object

__all__ = ["Writer"]


class Writer:
    """Writes one answer as events. One response, one use."""

    def __init__(
        self,
        response: dict[str, Any],
        output: Output,
        *,
        input_tokens: int,
        cached_tokens: int,
        now: Callable[[], float],
        finish: Callable[[dict[str, Any]], None],
    ) -> None:
        self._response, self._output = response, output
        self._input_tokens, self._cached_tokens = input_tokens, cached_tokens
        self._now, self._finish = now, finish

    def events(self, answer: Answer) -> Iterator[Event]:
        """The whole answer."""
        output = self._output
        yield self._lifecycle("created")
        yield self._lifecycle("in_progress")
        for number, part in enumerate(answer.parts, 1):
            if output.ends():
                break
            if number == len(answer.parts) and isinstance(answer.end, Incomplete):
                yield from self._last(write(part, output), answer.end)
            else:
                yield from write(part, output)
        yield self._end(answer)

    def warm_up(self) -> Iterator[Event]:
        """The answer to ``generate: false``: no output at all."""
        yield self._lifecycle("created")
        yield self._end(Answer())

    def _last(self, events: Iterator[Event], end: Incomplete) -> Iterator[Event]:
        """The events of the last part, broken off before it is closed: all its deltas, then an incomplete item."""
        for event in events:
            if event["type"] == "response.output_item.done":
                item = event["item"]
                if "status" in item:
                    item["status"] = "incomplete"
            yield event
        self._output.cut = self._output.cut or end

    def _end(self, answer: Answer) -> Event:
        output, response = self._output, self._response
        cut = output.cut or (answer.end if isinstance(answer.end, Incomplete) else None)
        if cut is not None:
            status = "incomplete"
            response["incomplete_details"] = {"reason": cut.reason}
        elif isinstance(answer.end, Failed):
            status = "failed"
            response["error"] = {"code": answer.end.code, "message": answer.end.message}
        else:
            status = "completed"
            response["completed_at"] = int(self._now())
        response["status"] = status
        response["output"] = list(output.items)
        if status != "failed":
            response["usage"] = usage_object(self._input_tokens, self._cached_tokens, output.tokens, output.reasoning_tokens)
        self._finish(dict(response))
        return self._lifecycle(status)

    def _lifecycle(self, kind: str) -> Event:
        return self._output.event(kind, response={**self._response, "output": list(self._output.items)})
