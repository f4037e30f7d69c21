"""Under gunicorn: workers that were forked from a master which had used its Provider."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pixir_sync import user
from pixir_sync.local import LocalServer, faults
from tests.deployments.servers import (
    DEADLINE,
    ROOT,
    WARMED,
    Answer,
    Process,
    ask,
    asks,
    environment_of,
    in_thread,
    local_server,
    until,
)

SYNC = ["--worker-class", "sync"]
THREADS = ["--worker-class", "gthread", "--threads", "4"]
KINDS = [pytest.param(SYNC, id="sync"), pytest.param(THREADS, id="gthread")]
WAYS = ["websocket", "websocket-tls", "http_sse"]

AFTER_THE_FIRST_PIECE = 5  # events: two announce the response, two the message


class Site:
    """A running gunicorn."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.port = int(process.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])

    def ask(self, text: str, **form: str) -> tuple[str, int]:
        """What was said, and by which worker. Raises AssertionError for any answer but 200."""
        status, body, pid = ask(self.port, "/ask", text=text, **form)
        assert status == 200, (body, self.process.said)
        return json.loads(body)["said"], pid

    def ask_until(self, enough: Callable[[set[int]], bool], name: str) -> set[int]:
        """Ask until enough workers have answered; which they were."""
        pids: set[int] = set()

        def once() -> bool:
            text = f"{name}-{len(pids)}"
            said, pid = self.ask(text)
            assert said == heard(text)
            pids.add(pid)
            return enough(pids)

        until(once, "answers by enough workers")
        return pids


@contextmanager
def gunicorn(
    server: LocalServer, way: str, log: Path, *arguments: str, workers: int = 3, preload: bool = True, quiet: bool = True
) -> Iterator[Site]:
    command = ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket", "--workers", str(workers), *arguments]
    command += ["--preload"] if preload else []
    with Process([*command, "tests.deployments.site:app"], environment_of(server, way), ROOT, log) as process:
        yield Site(process)
        if quiet:
            process.assert_quiet()


def heard(text: str) -> str:
    return f"Heard: {text} (context: 1)"


@pytest.mark.row("B21")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_its_own(kind: list[str], way: str, tmp_path: Path) -> None:
    """Three workers of a preloaded master: nothing comes on its connection any more, and no two workers share one."""
    with local_server(way) as server, gunicorn(server, way, tmp_path / "log", *kind) as site:

        def one(number: int) -> tuple[str, int]:
            text, session = f"question {number}", ("warm", "s1", "s2", "")[number % 4]
            said, pid = site.ask(text, **({"session": session} if session else {}))
            assert said == heard(text)
            return text, pid

        with ThreadPoolExecutor(6) as crowd:
            answered = dict(crowd.map(one, range(60)))
        assert len(site.ask_until(lambda pids: len(pids) == 3, "more")) == 3
        assert site.process.stop() == 0
        requests = server.requests
        masters = next(r.connection for r in requests if r.text == WARMED)
        assert [r.text for r in requests if r.connection == masters] == [WARMED]
        assert sorted(r.text for r in requests if r.text in answered) == sorted(answered)
        users: dict[int, set[int]] = {}
        for recorded in requests:
            if recorded.text in answered:
                users.setdefault(recorded.connection, set()).add(answered[recorded.text])
        assert all(len(pids) == 1 for pids in users.values()), users


@pytest.mark.row("B21")
@pytest.mark.parametrize(("kind", "preload"), [(SYNC, True), (THREADS, False)], ids=["sync preloaded", "gthread not preloaded"])
def test_workers_are_reloaded_in_mid_traffic(kind: list[str], preload: bool, tmp_path: Path) -> None:
    """HUP: no request fails, a stream that runs comes to its end in the old worker, and new ones answer."""
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    wrong: list[tuple[str, str]] = []
    stop = threading.Event()
    with local_server("websocket") as server, gunicorn(server, "websocket", tmp_path / "log", *kind, preload=preload) as site:

        def traffic(name: int) -> int:
            rounds = 0
            while not stop.is_set():
                text = f"traffic {name}.{rounds}"
                if (said := site.ask(text, session=f"s{name}")[0]) != heard(text):
                    wrong.append((text, said))
                rounds += 1
            return rounds

        old = site.ask_until(lambda pids: len(pids) == 3, "before")
        with server.fault(stall, times=1, when=asks("held")) as placed:
            stream = Answer(site.port, "/stream", text="held")
            placed.wait()
            clients = [in_thread(lambda name=name: traffic(name)) for name in range(3)]  # type: ignore[misc]
            try:
                site.process.send_signal(signal.SIGHUP)
                site.ask_until(lambda pids: len(pids - old) == 3, "after")
            finally:
                stop.set()
            assert all(client.result(DEADLINE) for client in clients) and not wrong
            stall.release()
            assert stream.rest() == heard("held")
        assert site.process.stop() == 0


@pytest.mark.parametrize(("kind", "way"), [(SYNC, "http_sse"), (THREADS, "websocket")], ids=["sync", "gthread"])
def test_a_graceful_stop_waits_for_a_stream(kind: list[str], way: str, tmp_path: Path) -> None:
    """TERM: the stream that runs comes to its end, then all processes do, with status 0 and no word of a failure."""
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    with local_server(way) as server, gunicorn(server, way, tmp_path / "log", *kind) as site:
        with server.fault(stall, times=1, when=asks("held")) as placed:
            stream = Answer(site.port, "/stream", text="held")
            placed.wait()
            site.process.send_signal(signal.SIGTERM)
            site.process.wait_for("Handling signal: term")
            stall.release()
            assert stream.rest() == heard("held")
        assert site.process.wait() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_waits_for_graceful_timeout_only(kind: list[str], tmp_path: Path) -> None:
    """A stream that does not end within it is cut: the client sees half an answer, the provider the end of the connection."""
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    with local_server("websocket") as server:
        with gunicorn(server, "websocket", tmp_path / "log", *kind, "--graceful-timeout", "1") as site:
            with server.fault(stall, times=1, when=asks("held")) as placed:
                stream = Answer(site.port, "/stream", text="held")
                placed.wait()
                assert site.process.stop() == 0
                with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                    stream.rest()
                assert stall.pause.gone.wait(DEADLINE)


def test_timeout_is_of_the_whole_call_for_a_sync_worker(tmp_path: Path) -> None:
    """It kills a sync worker in the middle of a long call; a gthread worker shows that it is alive meanwhile."""
    outcomes = {}
    for name, kind in (("sync", SYNC), ("gthread", THREADS)):
        stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
        with local_server("websocket") as server:
            command = [*kind, "--timeout", "1"]
            with gunicorn(server, "websocket", tmp_path / name, *command, workers=1, quiet=False) as site:
                with server.fault(stall, times=1, when=asks("held")) as placed:
                    stream = Answer(site.port, "/stream", text="held")
                    placed.wait()
                    stall.pause.gone.wait(4 if kind is THREADS else DEADLINE)
                    stall.release()
                    try:
                        outcomes[name] = stream.rest()
                    except (http.client.IncompleteRead, ConnectionError):
                        outcomes[name] = "cut"
                assert ("WORKER TIMEOUT" in site.process.said) is (kind is SYNC)
                assert site.ask("next")[0] == heard("next")
    assert outcomes == {"sync": "cut", "gthread": heard("held")}


def test_a_session_continues_in_the_worker_that_had_its_last_turn(tmp_path: Path) -> None:
    """Elsewhere its turn is as right, and sends everything; each worker that has seen the session keeps a connection for it."""
    with local_server("websocket") as server, gunicorn(server, "websocket", tmp_path / "log", *SYNC, workers=2) as site:
        history: list[dict[str, Any]] = []
        turns: list[tuple[bool, int]] = []

        def turn() -> None:
            history.append(dict(user(f"turn {len(turns) + 1}")))
            status, body, pid = ask(site.port, "/turn", history=json.dumps(history), session="s")
            told = json.loads(body)
            assert status == 200 and told["said"] == f"Heard: turn {len(turns) + 1} (context: {len(turns) + 1})"
            assert told["sent"] == (1 if told["continued"] else len(history))
            history.extend(told["items"])
            turns.append((told["continued"], pid))

        stalls = [faults.Stall(after=AFTER_THE_FIRST_PIECE) for _ in range(2)]
        with server.fault(stalls[0], times=1, when=asks("held 0")), server.fault(stalls[1], times=1, when=asks("held 1")):
            streams = [Answer(site.port, "/stream", text="held 0")]  # a sync worker does one thing at a time: it is busy now
            turn()
            turn()
            streams.append(Answer(site.port, "/stream", text="held 1"))  # and now the other one is
            stalls[0].release()
            streams[0].rest()
            turn()
            turn()
            stalls[1].release()
            streams[1].rest()
        assert [continued for continued, _ in turns] == [False, True, False, True]
        assert turns[0][1] == turns[1][1] != turns[2][1] == turns[3][1]
        assert len({recorded.connection for recorded in server.requests if recorded.text.startswith("turn")}) == 2
