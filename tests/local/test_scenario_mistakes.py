"""Mistakes of a scenario or a fault: none is silent, none leaves a client waiting, none ends the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pixir_sync.local import Answer, Close, LocalServer, Step, Text, faults
from pixir_sync.local.faults import Exchange, Fault, Steps, Strike
from tests.local.helpers import Wire, both, call, http_connection
from tests.local.raw import Json, body, connect


def raising(error: BaseException) -> Any:
    """A scenario that raises this at once."""

    def scenario(body: Json) -> Any:
        raise error

    return scenario


def half_way(error: BaseException) -> Any:
    """A scenario that raises this behind its first event."""

    def scenario(body: Json) -> Iterator[Step]:
        yield {"type": "first"}
        raise error

    return scenario


class Spoilt(Fault):
    """A fault that gives what only a scenario may."""

    def on_answer(self, steps: Steps, strike: Strike, exchange: Exchange) -> Steps:
        yield Answer("No step of a fault.")


FATAL = [ConnectionResetError("mine"), BrokenPipeError("mine"), SystemExit(3), pytest.fail.Exception("not this request")]


@both
@pytest.mark.parametrize("error", FATAL, ids=lambda error: type(error).__name__)
def test_what_a_scenario_raises_is_never_lost(wire: Wire, error: BaseException) -> None:
    """Errors that mean something else on an event loop are answered with a 500 and kept like any other; the server goes on."""
    server = LocalServer(scenario=raising(error))
    server.start()
    try:
        assert wire(server)[-1]["status"] == 500
        (failure,) = server.failures
        assert failure.__cause__ is error and type(error).__name__ in str(failure)
        server.scenario = None
        assert wire(server)[-1]["type"] == "response.completed"
    finally:
        server.close()


@pytest.mark.parametrize("error", FATAL, ids=lambda error: type(error).__name__)
def test_what_a_scenario_raises_half_way_ends_its_turn_only(error: BaseException) -> None:
    """Behind the first event it is an error frame; the lane is free for the next request."""
    server = LocalServer(scenario=half_way(error))
    server.start()
    with connect(server) as client:
        client.create()
        assert client.receive() == {"type": "first"}
        assert client.receive()["status"] == 500
        server.scenario = None
        assert client.turn()[-1]["type"] == "response.completed"
    assert [failure.__cause__ for failure in server.failures] == [error]
    server.close()


WRONG: dict[str, Any] = {
    "an event by itself": {"type": "x"},
    "a list of texts": ["Hello"],
    "a list of parts": [Text("Hello")],
    "bytes by themselves": b"data",
    "a number": 5,
    "a list of None": [None],
}


@both
@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG.keys())
def test_a_reply_of_a_wrong_type_is_an_error(wire: Wire, reply: Any) -> None:
    """What is no step is not passed over, which would leave the client waiting."""
    server = LocalServer(scenario=lambda _: reply)
    server.start()
    assert wire(server)[-1]["status"] == 500
    assert [type(failure) for failure in server.failures] == [TypeError]
    server.close()


def test_a_fault_that_gives_no_step_is_an_error() -> None:
    """An `Answer` is written where a scenario gives it, and nowhere else."""
    server = LocalServer(faults=[Spoilt()])
    server.start()
    with connect(server) as client:
        assert client.refused()["status"] == 500
    assert isinstance(server.failures[0], TypeError)
    server.close()


def test_a_close_code_that_is_none_is_an_error() -> None:
    """Nothing was closed by it: the client is told, and the connection is kept."""
    server = LocalServer(scenario=lambda _: [Close(99_999)])
    server.start()
    with connect(server) as client:
        assert client.refused()["status"] == 500
        server.scenario = None
        assert client.turn()[-1]["type"] == "response.completed"
    server.close()


ACTS: dict[str, Any] = {
    "close": lambda server: server.close(),
    "start": lambda server: server.start(),
    "cut_connections": lambda server: server.cut_connections(),
    "close_connections": lambda server: server.close_connections(),
    "send_all": lambda server: server.send_all({"type": "x"}),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_a_scenario_cannot_wait_for_its_own_server(act: Any) -> None:
    """What would wait for the thread that it runs on raises there, and the server goes on."""
    server = LocalServer()
    server.scenario = lambda _: act(server)
    server.start()
    with connect(server) as client:
        assert client.refused()["status"] == 500
        assert "own thread" in str(server.failures[0])
        server.scenario = None
        assert client.turn()[-1]["type"] == "response.completed"
    server.close()


def test_a_plain_request_is_answered_whatever_a_fault_raises() -> None:
    """A `when` that raises is a failure of the server, answered with a 500."""
    server = LocalServer()
    server.start()
    with server.fault(faults.Drop(), when=lambda body: bool(body["tools"]), required=False):
        with http_connection(server) as connection:
            assert call(connection, "POST", "/v1/responses", body())[0] == 500
    assert [type(failure) for failure in server.failures] == [KeyError]
    server.close()
