"""A Provider as a module global of a Django site: under its threaded server, its autoreload and its test runner."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pixir_sync.local import LocalServer, faults
from tests.deployments.servers import (
    DEADLINE,
    ROOT,
    Answer,
    Endless,
    Process,
    ask,
    asks,
    environment_of,
    free_port,
    local_server,
    until,
)

SITE = Path(__file__).with_name("django_shop.py")
RUNNER = ROOT / "docs" / "examples" / "django_runner.py"
AFTER_THE_FIRST_PIECE = 5  # events: two announce the response, two the message
SETTINGS = 'SECRET_KEY = "a key for tests"\nROOT_URLCONF = "django_shop"\n'

# Four test cases for two processes; each uses the Provider that its process inherited.
CASES = """
from django.test import SimpleTestCase
import django_shop

django_shop.provider.complete("at the import", session="s")

class Case(SimpleTestCase):
    def test_views(self):
        for number in range(5):
            answer = self.client.post("/ask", {"text": f"{type(self).__name__} {number}", "session": "s"})
            self.assertEqual(answer.text, f"Heard: {type(self).__name__} {number} (context: 1)")
        streamed = self.client.post("/stream", {"text": "Hello"})
        self.assertEqual(streamed.getvalue(), b"Heard: Hello (context: 1)")

class Case1(Case): pass
class Case2(Case): pass
class Case3(Case): pass
"""


@contextmanager
def runserver(server: LocalServer, way: str, where: Path, *arguments: str) -> Iterator[tuple[Process, int]]:
    """Django's own server with a copy of the site; the process and its port."""
    shutil.copy(SITE, where)
    port = free_port()
    command = ["-m", "django", "runserver", f"127.0.0.1:{port}", "--settings=django_shop", *arguments]
    with Process(command, environment_of(server, way), where, where / "log") as process:
        process.wait_for("Quit the server with")
        until(lambda: answers(port), "the first answer")
        yield process, port
        process.assert_quiet()


def answers(port: int) -> bool:
    """Whether the server listens by now: it says so a moment before."""
    try:
        return ask(port, "/ask", text="there?")[0] == 200
    except ConnectionError:
        return False


def heard(text: str) -> str:
    return f"Heard: {text} (context: 1)"


@pytest.mark.parametrize("way", ["websocket", "http_sse"])
def test_threads_of_the_server_share_the_provider(way: str, tmp_path: Path) -> None:
    """Every answer is its own; a client that leaves in mid-stream ends its call, and no other."""
    with local_server(way) as server, runserver(server, way, tmp_path, "--noreload") as (_, port):

        def one(number: int) -> bool:
            path, session = ("/ask", "/stream")[number % 2], ("s1", "s2", "")[number % 3]
            found = ask(port, path, text=f"question {number}", **({"session": session} if session else {}))
            return found[:2] == (200, heard(f"question {number}"))

        server.scenario = endless = Endless()
        answer = Answer(port, "/stream", text="endless")
        assert answer.piece().startswith("x")
        answer.leave()
        with ThreadPoolExecutor(8) as crowd:
            assert all(crowd.map(one, range(48)))
        endless.left.set()
        assert endless.ended.wait(DEADLINE)


@pytest.mark.parametrize("way", ["websocket", "http_sse-tls"])
def test_autoreload_while_a_stream_runs(way: str, tmp_path: Path) -> None:
    """A changed file ends the process, streams or not: quietly, with its connections; the new one answers with the new code."""
    stall = faults.Stall(after=AFTER_THE_FIRST_PIECE)
    with local_server(way) as server, runserver(server, way, tmp_path) as (process, port):
        with server.fault(stall, times=1, when=asks("held")) as placed:
            stream = Answer(port, "/stream", text="held")
            placed.wait()
            text = SITE.read_text(encoding="utf-8")

            def noticed() -> bool:
                """The reloader compares times, from its first look at a file on: it is written until that has looked twice."""
                (tmp_path / SITE.name).write_text(text.replace('VERSION = "1"', 'VERSION = "22"'), encoding="utf-8")
                return stall.pause.gone.wait(1.5)

            until(noticed, "the end of the old process")
            stream.leave()
        process.wait_for(r"(?s)Quit the server with.*Quit the server with")
        until(lambda: answers(port), "an answer of the new process")
        assert ask(port, "/ask", text="again", session="s")[1] == heard("again")


@pytest.mark.parametrize("settings", ["settings", "django_shop"])
def test_the_test_runner_with_processes(settings: str, tmp_path: Path) -> None:
    """``--parallel 2`` forks after the Provider was used in a module: every test has its own answers.

    A Provider that is made with the settings is made before the runner can say where to: it asks the environment's server.
    """
    for path in (SITE, RUNNER):
        shutil.copy(path, tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES, encoding="utf-8")
    (tmp_path / "settings.py").write_text(SETTINGS, encoding="utf-8")
    with local_server("websocket") as server:
        command = ["-m", "django", "test", "--parallel", "2", f"--settings={settings}", "--testrunner=django_runner.Runner"]
        with Process([*command, "test_cases"], environment_of(server), tmp_path, tmp_path / "log") as process:
            assert process.wait() == 0, process.said
            assert "Ran 4 tests" in process.said and "\nOK\n" in process.said
            process.assert_quiet()
        assert bool(server.requests) is (settings == "django_shop")
