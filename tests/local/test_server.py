"""The life of the local server: what it starts, what it leaves behind, what it needs."""

from __future__ import annotations

import asyncio
import errno
import gc
import http.client
import json
import os
import signal
import socket as sockets
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
import trustme

from pixir_sync.local import LocalServer, Pause, Step, faults
from tests.local.helpers import body, call, http_connection, next_event, receive, send, socket, start_stream, turn
from tests.local.raw import Mute, mute


def test_nothing_runs_before_start_and_after_close() -> None:
    """Making a server starts nothing; closing it ends its thread and its port; both may be done again."""
    before = threading.active_count()
    server = LocalServer()
    assert threading.active_count() == before and "closed" in repr(server)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.base_url
    server.start()
    server.start()
    port = server.port
    assert threading.active_count() == before + 1
    assert server.base_url == f"http://127.0.0.1:{port}/v1"
    assert server.websocket_url == f"ws://127.0.0.1:{port}/v1/responses"
    server.close()
    server.close()
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        sockets.create_connection(("127.0.0.1", port), 1)
    server.start()
    server.close()


def test_close_ends_what_is_open() -> None:
    """Streams and idle connections of both kinds end at close: a WebSocket with 1001, a body without its end."""
    pause = Pause()
    steps: list[Step] = [{"type": "x"}, pause]
    server = LocalServer(scenario=lambda _: steps)
    server.start()
    with (
        http_connection(server) as idle,
        http_connection(server) as busy,
        socket(server) as client,
        socket(server) as quiet,
    ):
        assert call(idle, "GET", "/v1/models")[0] == 200
        answer = start_stream(busy, body())
        assert next_event(answer) == {"type": "x"}
        send(client, body())
        assert receive(client) == {"type": "x"}
        server.close()
        assert client.ended() == (1001, "")
        assert quiet.ended() == (1001, "")
        assert idle.sock.recv(1) == b""
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_what_is_accepted_while_it_closes_is_closed_too() -> None:
    """A connection that is accepted in the moment of the close leaves no open socket behind (a warning, which fails the test)."""
    for _ in range(10):
        with LocalServer() as server:
            clients = [sockets.create_connection(("127.0.0.1", server.port), 5) for _ in range(20)]
        for client in clients:
            client.close()
        gc.collect()


def test_cut_connections_cuts_without_a_word() -> None:
    """Every open connection ends at once, no close frame is sent, and new ones are taken."""
    with LocalServer() as server:
        with socket(server) as client:
            turn(client, body())
            server.cut_connections()
            assert client.ended() is None
        with socket(server) as client:
            assert turn(client, body())[-1]["type"] == "response.completed"


def test_port_that_is_taken_is_an_error() -> None:
    """A server that cannot listen raises where it is started and leaves no thread."""
    with LocalServer() as first:
        before = threading.active_count()
        with pytest.raises(OSError, match="in use"):
            LocalServer(port=first.port).start()
        assert threading.active_count() == before


def test_tls_serves_both_transports() -> None:
    """With an SSL context the URLs are https and wss, and both are served and closed in time."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with LocalServer(ssl_context=context) as server:
        assert server.base_url.startswith("https://") and server.websocket_url.startswith("wss://")
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=5, context=trusting)
        assert call(connection, "POST", "/v1/responses", body())[0] == 200
        with socket(server, ssl=trusting) as client:
            assert turn(client, body())[-1]["type"] == "response.completed"
        connection.close()


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting without aiohttp is an ImportError that says what to install; importing the package is not."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError, match=r"pixir-sync\[local\]"):
        LocalServer().start()


def test_import_is_light() -> None:
    """Importing the package imports no aiohttp and starts no thread."""
    code = "import sys, threading, pixir_sync.local; print('aiohttp' in sys.modules, threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]


def test_serve_ends_cleanly_on_ctrl_c() -> None:
    """serve() says when it is ready, serves, and ends without a traceback on an interrupt."""
    code = (
        "from pixir_sync.local import serve\n"
        "serve('127.0.0.1', 0, 'secret', lambda server: print(server.port, flush=True), model='shown')\n"
        "print('ended')"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=5)
        assert json.dumps(call(connection, "GET", "/v1/models", key="secret")[1]).count("shown") == 1
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("ended\n", "")


def test_no_task_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server has stopped, its loop holds no task but the one that stops it."""
    from pixir_sync.local.front import Front

    left: list[int] = []
    stop = Front.stop

    async def counted(front: Front) -> None:
        await stop(front)
        left.append(len(asyncio.all_tasks()))

    monkeypatch.setattr(Front, "stop", counted)
    with LocalServer() as server, socket(server) as client, http_connection(server) as connection:
        turn(client, body())
        send(client, body(stream_id="side"))
        call(connection, "POST", "/v1/responses", body())
        server.close()
    assert left == [1]


def in_time(act: Callable[[], object], client: Mute) -> None:
    """Call it on a thread, and assert that it returns while the client still holds its connection."""
    thread = threading.Thread(target=act)
    thread.start()
    thread.join(5)
    returned = not thread.is_alive()
    client.sock.close()  # what hung ends now
    thread.join(5)
    assert returned and not thread.is_alive()


ACTS: dict[str, Callable[[LocalServer], object]] = {
    "close": lambda server: server.close(),
    "close_connections": lambda server: server.close_connections(),
    "send_all": lambda server: server.send_all({"type": "x"}),
    "cut_connections": lambda server: server.cut_connections(),
}
acts = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())


@acts
def test_a_client_that_reads_nothing_holds_nobody_up(act: Callable[[LocalServer], object]) -> None:
    """What the owner does returns in time, though a client's socket takes no more and an answer waits to be written."""
    full: Step = {"type": "x", "x": "x" * (32 << 20)}  # more than two sockets hold
    with LocalServer(scenario=lambda _: [{"type": "begun"}, full, full]) as server, mute(server) as client:
        client.create()
        assert b"begun" in client.frame().payload
        in_time(lambda: act(server), client)


@acts
def test_a_slow_frame_holds_nobody_up(act: Callable[[LocalServer], object]) -> None:
    """Nor does a frame that leaves a byte a second."""
    with LocalServer(faults=[faults.SlowBytes(1.0)]) as server, mute(server) as client:
        client.create()
        assert client.sock.recv(1) == b"\x81"
        in_time(lambda: act(server), client)


def test_a_start_that_finds_no_descriptor_is_an_error() -> None:
    """Where not even an event loop can be made, start() raises OSError and leaves no thread; it does not wait for one."""
    code = (
        "import os, resource, threading, aiohttp\n"
        "from pixir_sync.local import LocalServer, front\n"
        "limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/dev/fd')) - 1, limit))\n"
        "try:\n"
        "    LocalServer().start()\n"
        "except OSError as error:\n"
        "    print(error.errno, threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.split() == [str(errno.EMFILE), "1"]


def test_an_interrupted_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while start() waits goes through, and what had begun to listen is stopped."""
    before = threading.active_count()
    result = Future.result

    def interrupted(future: Future[int], timeout: float | None = None) -> int:
        result(future, 5)
        raise KeyboardInterrupt

    server = LocalServer()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Future, "result", interrupted)
        server.start()
    assert threading.active_count() == before and "closed" in repr(server)
    server.start()
    server.close()


def test_close_has_closed_for_every_thread_that_called_it() -> None:
    """Whichever of several threads comes first, close() returns in each of them when the server's thread is gone."""

    def close(server: LocalServer, own: threading.Thread, alive: list[bool]) -> None:
        server.close()
        alive.append(own.is_alive())

    for _ in range(20):
        server = LocalServer()
        server.start()
        (own,) = (thread for thread in threading.enumerate() if thread.name == "pixir-local-server")
        alive: list[bool] = []
        with mute(server):
            threads = [threading.Thread(target=close, args=(server, own, alive)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
        assert alive == [False] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_process_has_no_server() -> None:
    """After a fork the child's copy does nothing and waits for nothing, and the parent's server goes on."""
    with LocalServer() as server, socket(server) as client:
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            status = 1
            try:
                server.cut_connections()
                server.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert turn(client, body())[-1]["type"] == "response.completed"
