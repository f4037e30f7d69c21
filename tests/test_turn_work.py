"""What a turn costs where its history grows: one comparison and one shallow pass, and not a bytecode more (design, rule 3)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, SupportsIndex

import pytest

from pixir_sync import InvalidRequest, Provider, user
from pixir_sync.local import LocalServer

Turn = Callable[[list[Any]], dict[str, Any]]
SIZES = (40, 2_000)
AT_THE_ENDS = 2  # the first and the last item are compared at the call, too


class Compared(dict[str, Any]):
    """An item that counts how often it is compared."""

    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return dict.__eq__(self, other)


class Passed(list[Any]):
    """A list that keeps, of each pass over it or over a part of it, how many items that part has."""

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__(items)
        self.passes: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        self.passes.append(len(self))
        return super().__iter__()

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if isinstance(at, slice):
            self.passes.append(len(found))
        return found

    def __add__(self, other: Any) -> list[Any]:
        self.passes.append(len(self))
        return super().__add__(other)

    def __mul__(self, times: SupportsIndex) -> list[Any]:
        self.passes.append(len(self))
        return super().__mul__(times)

    def __eq__(self, other: object) -> bool:
        self.passes.append(len(self))
        return super().__eq__(other)

    def copy(self) -> list[Any]:
        self.passes.append(len(self))
        return super().copy()

    def over(self, size: int) -> int:
        """How many passes there were over this many items, or more."""
        return sum(length >= size for length in self.passes)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with LocalServer() as server, Provider(base_url=server.base_url, api_key=server.api_key, model="m",
                                           transport="websocket") as provider:  # fmt: skip
        yield provider


def begun(provider: Provider, size: int) -> list[Any]:
    """The history of a conversation that a connection holds, with an item that is new."""
    history: list[Any] = [user(f"{number} of {size}") for number in range(size)]
    history += provider.complete(history, session=f"s{size}").output_items
    history.append(user("more"))
    history += provider.complete(history, session=f"s{size}").output_items
    return [*history, user("and more")]


def continued(provider: Provider, size: int, history: list[Any]) -> dict[str, Any]:
    """One more turn; how it ran. It must have been a delta."""
    with provider.stream(history, session=f"s{size}") as stream:
        for _ in stream:
            pass
    found = stream.result().provider_metadata
    assert found["used_previous_response_id"] and found["input_items_sent"] == 1
    return found


def test_each_item_is_compared_once(provider: Provider) -> None:
    """Over the call and all that follows, an item that was sent before is compared once; the two at the ends a little more."""
    for size in SIZES:
        history = json.loads(json.dumps(begun(provider, size)), object_hook=Compared)
        Compared.count = 0
        metadata = continued(provider, size, history)
        assert metadata["input_items_total"] - 2 <= Compared.count <= metadata["input_items_total"] + AT_THE_ENDS + 2


def test_the_history_is_passed_over_once(provider: Provider) -> None:
    """The caller's list is copied once, shallowly; of what else is taken of it only what is new is looked at."""
    for size in SIZES:
        history = Passed(begun(provider, size))
        continued(provider, size, history)
        assert history.over(size // 2) == 1, history.passes


def test_the_baseline_is_compared_and_not_copied(provider: Provider) -> None:
    """What a connection holds is passed over by the comparison, and not once more."""
    for size in SIZES:
        history = begun(provider, size)
        assert provider._websocket is not None
        baselines = [idle.baseline for idle in provider._websocket._pool.idle()]
        (baseline,) = [baseline for baseline in baselines if baseline is not None and size < len(baseline.input) < 2 * size]
        baseline.input = held = Passed(baseline.input)
        continued(provider, size, history)
        assert held.over(size // 2) == 1, held.passes


def test_no_bytecode_is_run_for_what_was_sent_before(provider: Provider) -> None:
    """A turn over ten times the history runs the same bytecodes: what grows is one call of the interpreter's own loops."""
    counts = {}
    for size in SIZES:
        history = begun(provider, size)
        counts[size] = bytecodes(lambda history=history, size=size: continued(provider, size, history))  # type: ignore[misc]
    few, many = counts.values()
    assert many - few < 2 * (SIZES[1] - SIZES[0]), counts  # a loop runs five an item; how the answer came in varies


def test_an_item_that_was_right_once_and_is_wrong_now_is_refused(provider: Provider) -> None:
    """The call itself looks only at what is new and at both ends; before anything is sent all of it is compared, and checked."""
    history = begun(provider, SIZES[0])
    sent = provider.stats()["bytes_sent"]
    history[7]["content"] = 5
    stream = provider.stream(history, session=f"s{SIZES[0]}")
    with pytest.raises(InvalidRequest, match=r"history\[7\]\.content must be"):
        next(stream)
    assert provider.stats()["bytes_sent"] == sent


def test_a_new_item_that_is_wrong_is_refused_at_once(provider: Provider) -> None:
    """What no connection holds is checked when the call is made."""
    history = begun(provider, SIZES[0])
    history[-1]["content"] = 5
    with pytest.raises(InvalidRequest, match=rf"history\[{len(history) - 1}\]\.content must be"):
        provider.stream(history, session=f"s{SIZES[0]}")


def bytecodes(run: Callable[[], object]) -> int:
    """How many bytecodes this thread executes in the package."""
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "opcode"
        return local

    def begin(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_globals.get("__name__", "").startswith("pixir_sync."):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        run()
    finally:
        sys.settrace(before)
    return count
