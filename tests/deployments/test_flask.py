"""A Provider as a module global of a Flask site: under threads, under the test client, and when the module is reloaded."""

from __future__ import annotations

import gc
import http.client
import importlib
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from werkzeug.serving import make_server

from pixir_sync import Provider
from pixir_sync.local import LocalServer, faults
from tests.deployments.servers import Answer, Endless, ask, asks, in_thread, until

NAME = "docs.examples.flask_site"
AFTER_THE_FIRST_PIECE = 5  # events: two announce the response, two the message


@pytest.fixture
def site(pixir_environment: LocalServer) -> Iterator[Any]:
    """The site of the documentation, imported anew: its Provider is made with the import."""
    sys.modules.pop(NAME, None)
    module = importlib.import_module(NAME)
    yield module
    module.provider.close()
    sys.modules.pop(NAME, None)


@contextmanager
def served(site: Any) -> Iterator[int]:
    """The site under werkzeug's threaded server; its port."""
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def heard(text: str) -> str:
    return f"Heard: {text} (context: 1)"


@pytest.mark.parametrize("transport", ["websocket", "http_sse"])
def test_threads_share_the_provider(site: Any, pixir_server: LocalServer, transport: str) -> None:
    """Eight threads at a time, in four sessions and in none: every answer is its own, and connections are used again."""
    site.provider = Provider(transport=transport)
    with served(site) as port, ThreadPoolExecutor(8) as crowd:

        def one(number: int) -> bool:
            path, session = ("/ask", "/stream")[number % 2], ("s1", "s2", "s3", "s4", "")[number % 5]
            status, body, _ = ask(port, path, text=f"question {number}", **({"session": session} if session else {}))
            return status == 200 and heard(f"question {number}") in body

        assert all(crowd.map(one, range(64)))
    assert sorted(pixir_server.requests.texts) == sorted(f"question {number}" for number in range(64))
    opened = site.provider.stats()["connections"]["opened"]
    assert opened <= (4 + 8 if transport == "websocket" else 8)


def test_streams_of_several_threads_run_at_once(site: Any, pixir_server: LocalServer) -> None:
    """Each request has begun before any one ends."""
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    with served(site) as port, pixir_server.fault(stall):
        answers = [Answer(port, "/stream", text=f"question {number}") for number in range(8)]
        begun = [answer.piece() for answer in answers]
        assert all(begun) and site.provider.stats()["websocket"]["pool"]["leased"] == 8
        stall.release()
        wholes = [piece + answer.rest() for piece, answer in zip(begun, answers, strict=True)]
    assert wholes == [heard(f"question {number}") for number in range(8)]


@pytest.mark.parametrize("transport", ["websocket", "http_sse"])
def test_a_client_that_leaves_ends_the_call(site: Any, pixir_server: LocalServer, transport: str) -> None:
    """The server notices at its next write, closes the view's generator, and with it the stream: the provider sees it end."""
    site.provider = Provider(transport=transport)
    pixir_server.scenario = endless = Endless()
    with served(site) as port:
        answer = Answer(port, "/stream", text="endless", session="s")
        assert answer.piece().startswith("x")
        answer.leave()
        endless.left.set()
        assert endless.ended.wait(5)
        until(lambda: site.provider.stats()["connections"]["live"] == 0, "the end of the call")
        assert heard("next") in ask(port, "/ask", text="next", session="s")[1]


def test_the_test_client(site: Any, pixir_server: LocalServer) -> None:
    """It runs the views on the test's own thread; a streamed answer that is closed early ends the call there, too."""
    client = site.app.test_client()
    assert client.post("/ask", data={"text": "Hello"}).json == {"said": heard("Hello")}
    assert client.post("/stream", data={"text": "Hello"}).text == heard("Hello")
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    with pixir_server.fault(stall, times=1):
        answer = client.post("/stream", data={"text": "Hello"}, buffered=False)
        assert next(iter(answer.iter_encoded()))
        answer.close()
        assert stall.pause.gone.wait(5)


def test_an_error_before_the_first_piece_has_its_own_status(site: Any, pixir_server: LocalServer) -> None:
    """A wrong request is found when the stream is made; what the model refuses, when the answer is asked for."""
    client = site.app.test_client()
    with pixir_server.fault(faults.Refuse(429, code="insufficient_quota", type="insufficient_quota")):
        refused = client.post("/ask", data={"text": "Hello"})
    assert (refused.status_code, refused.json) == (502, {"error": "quota_exceeded"})
    assert client.post("/stream", data={"text": "Hello", "session": ""}).status_code == 502


def test_an_error_behind_the_first_piece_cuts_the_body(site: Any, pixir_server: LocalServer) -> None:
    """The status has left by then: the client sees a body without its end, and the server's log the error."""
    with served(site) as port, pixir_server.fault(faults.Drop(after=AFTER_THE_FIRST_PIECE)):
        answer = Answer(port, "/stream", text="Hello")
        assert answer.status == 200
        with pytest.raises(http.client.IncompleteRead):
            answer.rest()


@pytest.mark.parametrize("transport", ["websocket", "http_sse"])
def test_a_module_reloaded_while_streams_run(site: Any, pixir_server: LocalServer, transport: str) -> None:
    """The streams of the old Provider come to their ends; then it is collected, with its sockets and its thread."""
    site.provider = Provider(transport=transport)
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    with served(site) as port:
        ask(port, "/ask", text="warm", session="warm")
        with pixir_server.fault(stall, when=asks("held")) as placed:
            held = [in_thread(lambda n=n: ask(port, "/stream", text=f"held {n}")[1]) for n in range(3)]  # type: ignore[misc]
            until(lambda: placed.struck == 3, "three streams")
            old, engine = weakref.ref(site.provider), weakref.ref(site.provider._engine)
            app = weakref.ref(site.app)
            before = site.app
            importlib.reload(site)
            assert site.app is not before and site.provider is not old()
            stall.release()
            assert [future.result(5) for future in held] == [heard(f"held {n}") for n in range(3)]
    assert site.app.test_client().post("/ask", data={"text": "new", "session": "warm"}).json == {"said": heard("new")}
    del before

    def collected() -> bool:
        gc.collect()
        return app() is None and old() is None and engine() is None

    until(collected, "the old Provider to go")
    site.provider.close()
    until(lambda: "pixir-keepalive" not in {thread.name for thread in threading.enumerate()}, "its thread to end")
