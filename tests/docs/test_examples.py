"""The programs of docs/examples run, and print what the documentation says; its tests pass under their own runners."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pixir_sync.local import LocalServer
from tests.deployments.servers import Process, ask, environment_of

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PRINTED = {
    "cancel_from_a_thread": "Half | cancelled, kept: 'Half '\n",
    "errors_and_retries": (
        "attempts: 2 | sent again because: ['overloaded']\n"
        "Heard: Hello (context: 1)\n"
        "attempts: 1 | sent again because: []\n"
        "quota_exceeded: No credit left. (retryable: False)\n"
    ),
    "first_conversation": "Heard: Good morning (context: 1)\nHeard: What did I say? (context: 2)\n",
    "hooks": (
        "websocket, full: stop, 1 of 1 items\n"
        "websocket, delta: stop, 1 of 3 items\n"
        "websocket, full: cancelled, 1 of 1 items\n"
        "lines: 3 | tokens: 82\n"
    ),
    "own_credential": "refreshed\nHeard: Hello (context: 1)\n",
    "sessions": (
        "Heard: Good morning (context: 1) | 1 of 1 items sent\n"
        "Heard: What did I say? (context: 2) | 1 of 3 items sent\n"
        "Heard: And now? (context: 3) | websocket_reconnected\n"
    ),
    "structured_output": "City(name='Graz', people=300000)\n",
    "time_limits": "first_event_timeout in phase first_event; a TimeoutError: True\n",
    "tool_call": 'called: get_weather\nTool answered: "{"city": "city", "sky": "clear"}" (context: 1)\n',
}
# The arguments of `python -m`, and the end of what the runner says.
RUN = {
    "test_with_pytest": (["pytest", "-p", "no:cacheprovider", "-W", "error", "--strict-markers"], r"=+ \d+ passed in .*=+\n"),
    "test_with_flask": (["pytest", "-p", "no:cacheprovider", "-W", "error", "--strict-markers"], r"=+ \d+ passed in .*=+\n"),
    "test_with_unittest": (["unittest"], r"Ran \d+ tests in .*\n\nOK\n"),
    "test_with_django": (["django", "test", "--settings=django_site"], r"Ran \d+ tests in .*\n\nOK\n(.*\n)*"),
}
HELD = {"django_runner", "django_site", "flask_site", "gunicorn_settings"}  # run by tests below
HELD |= {"celery_tasks"}  # run by tests/deployments

# A Provider that is made while the site is imported.
EAGER_VIEWS = """
from django.http import JsonResponse
from django.urls import path
from pixir_sync import Provider

provider = Provider()
urlpatterns = [path("", lambda request: JsonResponse({"said": provider.complete("Hello").text}))]
"""
EAGER_SETTINGS = 'SECRET_KEY = "a key for tests"\nROOT_URLCONF = "views"\nTEST_RUNNER = "django_runner.Runner"\n'
EAGER_TEST = """
from django.test import SimpleTestCase

class EagerTest(SimpleTestCase):
    def test_it(self):
        self.assertEqual(self.client.get("/").json(), {"said": "Heard: Hello (context: 1)"})
"""


def test_every_example_is_here() -> None:
    """A new example needs its line above."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED) | set(RUN) | HELD


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_an_example_prints_what_it_should(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each runs without a key and without a network, and leaves no thread behind."""
    before = set(threading.enumerate())
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out == PRINTED[name]
    until = time.monotonic() + 5
    while set(threading.enumerate()) - before:  # the keepalive thread ends as soon as it sees that its provider was closed
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("name", sorted(RUN))
def test_the_tests_of_the_documentation_pass(name: str, tmp_path: Path) -> None:
    """In a directory of its own, as a user's project, each passes without a key and without a warning that is an error."""
    arguments, said = RUN[name]
    run(tmp_path, [*arguments, f"{name}.py" if arguments[0] == "pytest" else name], said)


def test_the_django_runner_is_there_before_the_site(tmp_path: Path) -> None:
    """A Provider at the top of a module of the site means the local server."""
    (tmp_path / "views.py").write_text(EAGER_VIEWS)
    (tmp_path / "settings.py").write_text(EAGER_SETTINGS)
    (tmp_path / "test_eager.py").write_text(EAGER_TEST)
    run(tmp_path, ["django", "test", "--settings=settings", "test_eager"], r"Ran 1 test in .*\n\nOK\n(.*\n)*")


def test_the_settings_of_gunicorn(tmp_path: Path) -> None:
    """With them, the site of the documentation answers, and stops."""
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, tmp_path)
    command = ["-m", "gunicorn", "-c", "gunicorn_settings.py", "--bind", "127.0.0.1:0", "--no-control-socket", "flask_site:app"]
    with LocalServer() as server, Process(command, environment_of(server), tmp_path, tmp_path / "log") as process:
        port = int(process.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
        assert ask(port, "/stream", text="Hello")[:2] == (200, "Heard: Hello (context: 1)")
        assert process.stop() == 0
        process.assert_quiet()


def run(where: Path, arguments: list[str], said: str) -> None:
    """Run a module in a directory with the examples in it; what it says at its end."""
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, where)
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", *arguments]
    done = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50)
    assert done.returncode == 0, done.stdout
    assert re.search(rf"{said}\Z", done.stdout), done.stdout
