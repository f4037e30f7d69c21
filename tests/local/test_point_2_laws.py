"""Section 8, point 2, as laws: whatever is sent into whichever lanes, each lane is answered as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixir_sync.local import LocalServer
from tests.local.helpers import text, user
from tests.local.raw import TERMINAL, Client, Json, connect

LANE = st.none() | st.integers(0, 24).map("lane{}".format)
KIND = st.sampled_from(["plain", "plain", "continued", "refused", "warm", "long"])
PROGRAMME = st.lists(st.tuples(LANE, KIND), min_size=1, max_size=80)
EXAMPLES = 25
IN_FLIGHT = 16


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalServer]:
    """One server for all examples: each has a connection of its own."""
    with LocalServer() as server:
        yield server


def request(number: int, lane: str | None, kind: str) -> Json:
    """A ``response.create`` whose answer tells which request it answers."""
    said = f"m{number} " + ("word " * 40 if kind == "long" else "")
    fields: Json = {"stream_id": lane} if lane else {}
    if kind == "refused":
        fields["previous_response_id"] = f"resp_{number}"
    if kind == "warm":
        fields["generate"] = False
    return {"type": "response.create", "model": "m", "input": [user(said)], "metadata": {"n": str(number)}, **fields}


def answered(client: Client, requests: list[Json]) -> list[Json]:
    """Send all, then read all."""
    for one in requests:
        client.send(one)
    events: list[Json] = []
    ends = 0
    while ends < len(requests):
        events.append(client.receive())
        ends += events[-1]["type"] in TERMINAL
    return events


def turns(events: list[Json]) -> Iterator[list[Json]]:
    """The events of a lane, cut behind each terminal one."""
    turn: list[Json] = []
    for event in events:
        turn.append(event)
        if event["type"] in TERMINAL:
            yield turn
            turn = []
    assert not turn


def number_of(turn: list[Json]) -> str:
    """Which request a turn answers."""
    last = turn[-1]
    if last["type"] == "error":
        found: str = last["error"]["message"]
        return found.partition("resp_")[2].partition("'")[0]
    assert {event["response"]["id"] for event in turn if "response" in event} == {last["response"]["id"]}
    assert [event["sequence_number"] for event in turn] == list(range(len(turn)))
    found = last["response"]["metadata"]["n"]
    assert not last["response"]["output"] or text(last["response"]).startswith(f"Heard: m{found} ")
    return found


@settings(max_examples=EXAMPLES)
@given(programme=PROGRAMME)
def test_each_lane_is_answered_in_order_and_by_itself(shared: LocalServer, programme: list[tuple[str | None, str]]) -> None:
    """Per lane one answer after the other, in the order of the requests, whole and with nothing of another lane in it."""
    requests = [request(number, lane, kind) for number, (lane, kind) in enumerate(programme)]
    with connect(shared) as client:
        events = answered(client, requests)
        client.silent()
    for lane in {lane for lane, _ in programme}:
        mine = [event for event in events if event.get("stream_id") == lane]
        asked = [str(number) for number, (other, _) in enumerate(programme) if other == lane]
        assert [number_of(turn) for turn in turns(mine)] == asked
    assert all(event["stream_id"] for event in events if "stream_id" in event)


@settings(max_examples=EXAMPLES)
@given(programme=PROGRAMME)
def test_never_more_than_sixteen_run(shared: LocalServer, programme: list[tuple[str | None, str]]) -> None:
    """At no moment have more than sixteen responses been created and not ended."""
    requests = [request(number, lane, kind) for number, (lane, kind) in enumerate(programme)]
    with connect(shared) as client:
        events = answered(client, requests)
    running: set[str] = set()
    for event in events:
        response = event.get("response")
        if response is None:
            continue
        if event["type"] in TERMINAL:
            running.remove(response["id"])
        else:
            running.add(response["id"])
        assert len(running) <= IN_FLIGHT
    assert not running


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.booleans()), min_size=1, max_size=30))
def test_lanes_keep_contexts_of_their_own(shared: LocalServer, programme: list[tuple[str | None, bool]]) -> None:
    """Continuing or beginning anew in random lanes, each answer counts the user messages of its own lane's chain."""
    latest: dict[str | None, tuple[str, int]] = {}
    with connect(shared) as client:
        for number, (lane, continues) in enumerate(programme):
            fields: Json = {"stream_id": lane} if lane else {}
            before = 0
            if continues and lane in latest:
                fields["previous_response_id"], before = latest[lane]
            response = client.final([user(f"m{number}")], store=False, **fields)
            assert text(response) == f"Heard: m{number} (context: {before + 1})"
            latest[lane] = response["id"], before + 1
