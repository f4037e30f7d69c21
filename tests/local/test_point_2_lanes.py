"""Section 8, point 2: first in, first out per lane, 16 in flight, 32 lanes, ``stream_id`` for named lanes and nowhere else."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pixir_sync.local import Answer, LocalServer, Pause
from tests.local.helpers import output, text
from tests.local.raw import DEADLINE, Client, Json, connect, kinds

IN_FLIGHT, LANES = 16, 32
UNUSUAL = ["a", "0", "-", ".", "_", "A-b_c.9", "x" * 256]
BAD = ["", " ", "a b", "a/b", "ä", "x" * 257, "a\n", "a:b"]


class Held:
    """A scenario in which every turn stands still before its first event, until it is let go."""

    def __init__(self) -> None:
        # Guards _pauses.
        self._lock = threading.Lock()
        self.open = False
        self._pauses: dict[str, Pause] = {}

    def __call__(self, body: Json) -> list[Any] | None:
        return None if self.open else [self.pause(body["input"]), Answer(body["input"])]

    def pause(self, name: str) -> Pause:
        with self._lock:
            return self._pauses.setdefault(name, Pause())

    def started(self, name: str) -> bool:
        return self.pause(name).reached.is_set()

    def wait(self, *names: str) -> None:
        """Until all of these stand still."""
        for name in names:
            assert self.pause(name).reached.wait(DEADLINE), name

    def release(self, *names: str) -> None:
        for name in names:
            self.pause(name).event.set()


def answered(client: Client) -> str:
    """What the next turn said."""
    return text(client.until_terminal()[-1]["response"])


def names(first: int, last: int) -> list[str]:
    return [f"n{number}" for number in range(first, last)]


def held(server: LocalServer) -> Held:
    scenario = Held()
    server.scenario = scenario
    return scenario


def test_one_lane_is_first_in_first_out(server: LocalServer) -> None:
    """Fifty requests sent at once into one lane are answered one after the other, in their order."""
    with connect(server) as client:
        for number in range(50):
            client.create(f"m{number}", stream_id="one")
        for number in range(50):
            events = client.until_terminal()
            assert {event["stream_id"] for event in events} == {"one"}
            assert text(events[-1]["response"]) == f"Heard: m{number} (context: 1)"


@pytest.mark.parametrize("lane", [None, "side"])
def test_the_second_of_a_lane_waits_for_the_first(server: LocalServer, lane: str | None) -> None:
    """While a lane's turn stands still its next one has not begun; it begins when the first has ended."""
    scenario = held(server)
    fields = {} if lane is None else {"stream_id": lane}
    with connect(server) as client:
        client.create("first", **fields)
        client.create("second", **fields)
        scenario.wait("first")
        client.settled()
        assert len(server.requests) == 2 and not scenario.started("second")
        scenario.release("first")
        assert answered(client) == "first"
        scenario.wait("second")
        scenario.release("second")
        assert answered(client) == "second"


def test_a_lane_passes_one_that_stands_still(server: LocalServer) -> None:
    """A turn of another lane runs to its end while the default lane, or a named one, stands still."""
    scenario = held(server)
    with connect(server) as client:
        for waits in ({}, {"stream_id": "slow"}):
            name = f"held {waits}"
            client.create(name, **waits)
            scenario.wait(name)
            scenario.open = True
            events = client.turn("quick", stream_id="fast")
            assert {event["stream_id"] for event in events} == {"fast"} and events[-1]["type"] == "response.completed"
            scenario.open = False
            scenario.release(name)
            assert answered(client) == name


def fill(client: Client, wanted: list[str]) -> None:
    """One request per name, each in a lane of its name."""
    for name in wanted:
        client.create(name, stream_id=name)


def test_sixteen_are_in_flight_and_more_are_queued(server: LocalServer) -> None:
    """The seventeenth request is neither refused nor begun; it begins when one of the sixteen ends, and so on in order."""
    scenario = held(server)
    with connect(server) as client:
        fill(client, names(0, 20))
        scenario.wait(*names(0, 16))
        client.settled()
        assert len(server.requests) == 20
        assert [name for name in names(0, 20) if scenario.started(name)] == names(0, 16)
        client.silent()
        for number in range(4):
            scenario.release(f"n{number + 3}")
            assert answered(client) == f"n{number + 3}"
            scenario.wait(f"n{number + 16}")
            client.settled()
            assert not any(scenario.started(name) for name in names(number + 17, 20))
        scenario.release(*names(0, 20))
        assert len(client.per_lane(16)) == 16


def test_the_default_lane_counts_among_the_sixteen(server: LocalServer) -> None:
    """Fifteen named lanes and the default one are sixteen: another named lane waits."""
    scenario = held(server)
    with connect(server) as client:
        fill(client, names(0, 15))
        client.create("default")
        client.create("late", stream_id="late")
        scenario.wait(*names(0, 15), "default")
        client.settled()
        assert not scenario.started("late")
        scenario.release("default")
        assert answered(client) == "default"
        scenario.wait("late")
        scenario.release("late", *names(0, 15))
        assert len(client.per_lane(16)) == 16


def test_a_queued_request_of_a_lane_takes_no_place(server: LocalServer) -> None:
    """Many requests in one lane hold one place: the other fifteen are free."""
    scenario = held(server)
    with connect(server) as client:
        for name in names(0, 20):
            client.create(name, stream_id="crowded")
        fill(client, names(100, 115))
        scenario.wait("n0", *names(100, 115))
        scenario.open = True
        scenario.release(*names(0, 20), *names(100, 115))
        found = client.per_lane(35)
    assert len(found.pop("crowded")) >= 20 and len(found) == 15


def test_sixteen_are_counted_per_connection(server: LocalServer) -> None:
    """A second connection has sixteen places of its own."""
    scenario = held(server)
    with connect(server) as one, connect(server) as two:
        fill(one, names(0, 16))
        fill(two, names(16, 32))
        scenario.wait(*names(0, 32))
        scenario.release(*names(0, 32))
        assert len(one.per_lane(16)) == len(two.per_lane(16)) == 16


def test_a_place_is_free_again_after_an_error(server: LocalServer) -> None:
    """A turn that is refused gives its place back: thirty-two refusals block nothing."""
    with connect(server) as client:
        for number in range(LANES):
            assert client.refused(stream_id=f"n{number}", previous_response_id="resp_x")["status"] == 400
        for number in range(LANES):
            client.create(f"m{number}", stream_id=f"n{number}")
        found = client.per_lane(LANES)
    assert {events[-1]["type"] for events in found.values()} == {"response.completed"} and len(found) == LANES


def test_a_connection_has_32_named_lanes_for_its_whole_life(server: LocalServer) -> None:
    """The thirty-third name is refused, though the lanes before it are idle; the names in use and the default lane go on."""
    with connect(server) as client:
        client.final("the default lane is not one of them")
        for number in range(LANES):
            client.final(stream_id=f"n{number}")
        for _ in range(2):
            refused = client.refused(stream_id="one-more")
            assert (refused["status"], refused["error"]["code"]) == (400, "websocket_stream_limit_reached")
            assert refused["error"]["param"] == "stream_id"
        client.final(stream_id="n0")
        client.final()
    with connect(server) as client:
        client.final(stream_id="one-more")


def test_the_default_lane_opens_after_32_others(server: LocalServer) -> None:
    """The default lane is besides the named ones: it is there though all 32 are taken."""
    with connect(server) as client:
        for number in range(LANES):
            client.final(stream_id=f"n{number}")
        client.final("default")


@pytest.mark.parametrize("name", UNUSUAL)
def test_stream_id_is_echoed_for_named_lanes(server: LocalServer, name: str) -> None:
    """Every event of a named lane carries its name as it was given, beside the response, not in it."""
    with connect(server) as client:
        events = client.turn(stream_id=name)
    assert len(events) > 5 and {event["stream_id"] for event in events} == {name}
    assert all("stream_id" not in event.get("response", {}) for event in events)


def test_stream_id_is_nowhere_else(server: LocalServer) -> None:
    """Events of the default lane carry none, errors neither, also beside a named lane and for a null."""
    with connect(server) as client:
        client.turn(stream_id="named")
        for fields in ({}, {"stream_id": None}):
            assert not any("stream_id" in event for event in client.turn(**fields))
        assert "stream_id" not in client.refused(previous_response_id="resp_x")
        client.send("{bad")
        assert "stream_id" not in client.receive()


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_x"},
        {"model": None},
        {"background": True},
        {"given": [output("call_x", "?")]},
        {"temperature": 9},
    ],
    ids=["not-found", "model", "background", "orphan", "value"],
)
def test_errors_of_a_lane_carry_its_name(server: LocalServer, fields: Json) -> None:
    """Whatever is refused on a named lane, the error frame says on which; the other lanes do not notice."""
    with connect(server) as client:
        assert client.refused(**fields, stream_id="side")["stream_id"] == "side"
        assert kinds(client.turn())[-1] == "completed"
        assert kinds(client.turn(stream_id="side"))[-1] == "completed"


@pytest.mark.parametrize("name", [*BAD, 5, True, ["a"], {"a": 1}])
def test_bad_names_are_refused(server: LocalServer, name: Any) -> None:
    """A stream_id that is no name is an error without a lane, opens none, and the socket is kept."""
    with connect(server) as client:
        refused = client.refused(stream_id=name)
        assert (refused["status"], refused["error"]["code"]) == (400, "invalid_stream_id")
        assert refused["error"]["param"] == "stream_id" and "stream_id" not in refused
        for number in range(LANES):
            client.create(stream_id=f"n{number}")
        assert len(client.per_lane(LANES)) == LANES


def test_lanes_that_are_not_offered_are_refused() -> None:
    """Without lanes (the switch for services that have none) a stream_id is refused and the default lane serves."""
    with LocalServer(lanes=False) as server, connect(server) as client:
        refused = client.refused(stream_id="side")
        assert refused["status"] == 400 and refused["error"]["param"] == "stream_id"
        client.final()
