"""The pytest plugin in projects of its own: its fixtures, its marker, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

CLIENT = """
import http.client
import json
import os
from urllib.parse import urlsplit


def ask(text, base_url=None, api_key=None, model=None):
    base = urlsplit(base_url or os.environ["OPENAI_BASE_URL"])
    connection = http.client.HTTPConnection(base.hostname, base.port, timeout=5)
    body = json.dumps({"model": model or os.environ["PIXIR_MODEL"], "input": text})
    headers = {"Authorization": "Bearer " + (api_key or os.environ["OPENAI_API_KEY"])}
    try:
        connection.request("POST", base.path + "/responses", body, headers)
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer["output"][0]["content"][0]["text"] if answer.get("output") else answer["error"]["message"]
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a program in it and the strictest settings."""
    pytester.makepyfile(program=CLIENT)
    # The second filter: this project's pytest runs inside of ours, and an editable install has modules that ours has imported.
    filters = "error\n    ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    pytester.makeini(f"[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings =\n    {filters}\npythonpath = .")
    return pytester


def test_the_plugin_is_installed(pytester: pytest.Pytester) -> None:
    """A project gets it with the package: fixtures and marker are listed with what they are for."""
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.pixir_server(*options): options of the LocalServer*"])
    pytester.runpytest("--fixtures").stdout.fnmatch_lines(
        ["pixir_server*pytest_plugin.py*", "*A running LocalServer for this test*", "pixir_environment*pytest_plugin.py*"]
    )


def test_a_server_runs_for_a_test(project: pytest.Pytester) -> None:
    """The fixture is a server that listens, and every test has one of its own."""
    project.makepyfile("""
        from program import ask

        def test_one(pixir_server):
            assert ask("Hello", pixir_server.base_url, pixir_server.api_key, "m") == "Heard: Hello (context: 1)"
            assert pixir_server.requests.only.text == "Hello"

        def test_two(pixir_server):
            assert pixir_server.requests == []
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_the_environment_leads_to_the_server(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reads its settings from the environment needs no change; the test's end puts back what was there."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("OPENAI_API_KEY", "a real key")
    monkeypatch.setenv("PIXIR_ENDPOINT", "xai")
    monkeypatch.setenv("PIXIR_CONFIG", "mine.ini")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    project.makepyfile("""
        import os, urllib.request
        from program import ask

        def test_one(pixir_environment, pixir_server):
            assert pixir_environment is pixir_server
            assert ask("Hello") == "Heard: Hello (context: 1)"
            assert pixir_server.requests.only.model == os.environ["PIXIR_MODEL"] == "local-model"
            assert urllib.request.getproxies() == {"no": "*"}
            assert (os.environ["PIXIR_ENDPOINT"], os.environ["PIXIR_CONFIG"]) == ("", os.devnull)

        def test_two():
            assert (os.environ["PIXIR_ENDPOINT"], os.environ["PIXIR_CONFIG"]) == ("xai", "mine.ini")
            assert os.environ["OPENAI_API_KEY"] == "a real key" and "OPENAI_BASE_URL" not in os.environ
            assert urllib.request.getproxies()["all"] and os.environ["NO_PROXY"] == "example.com"
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_a_marker_sets_the_options(project: pytest.Pytester) -> None:
    """The nearest marker decides about each option; what it does not name comes from those further out."""
    project.makepyfile("""
        import pytest

        pytestmark = pytest.mark.pixir_server(model="of-the-module", api_key="of-the-module")

        @pytest.mark.pixir_server(model="of-the-class")
        class TestClass:
            @pytest.mark.pixir_server(model="of-the-test")
            def test_one(self, pixir_server):
                assert (pixir_server.model, pixir_server.api_key) == ("of-the-test", "of-the-module")

            def test_two(self, pixir_environment):
                assert (pixir_environment.model, pixir_environment.api_key) == ("of-the-class", "of-the-module")

        @pytest.mark.parametrize("model", [pytest.param("a", marks=pytest.mark.pixir_server(model="a"))])
        def test_three(pixir_server, model):
            assert pixir_server.model == model
    """)
    project.runpytest().assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("'a model'", "*the marker pixir_server takes the options of LocalServer by name*"),
        ("modle='m'", "*unexpected keyword argument 'modle'*"),
    ],
)
def test_a_wrong_marker_is_an_error(project: pytest.Pytester, marker: str, said: str) -> None:
    """An option without a name and one that does not exist end the test before it begins."""
    project.makepyfile(f"import pytest\n@pytest.mark.pixir_server({marker})\ndef test_one(pixir_server): pass")
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


def test_a_marker_places_scenarios_and_faults(project: pytest.Pytester) -> None:
    """They are in place when the test begins; a test may put others in their place."""
    project.makepyfile("""
        import pytest
        from program import ask
        from pixir_sync.local import faults

        @pytest.mark.pixir_server(scenario="No.")
        def test_one(pixir_environment):
            assert ask("Hello") == "No."
            pixir_environment.scenario = None
            assert ask("Hello") == "Heard: Hello (context: 1)"

        @pytest.mark.pixir_server(scenario="No.", faults=[faults.Refuse(429, message="Busy.")])
        def test_two(pixir_environment):
            assert ask("Hello") == "Busy."
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_a_scenario_that_fails_is_in_the_report(project: pytest.Pytester) -> None:
    """The program got a 500 and may have swallowed it: the test has an error, with the scenario's own exception."""
    project.makepyfile("""
        import pytest
        from program import ask

        def broken(body):
            raise LookupError("the scenario has no answer to this")

        @pytest.mark.pixir_server(scenario=broken)
        def test_one(pixir_environment):
            assert ask("Hello") == "The local server failed."

        @pytest.mark.pixir_server(scenario=broken)
        def test_two(pixir_environment):
            ask("Hello")
            assert isinstance(pixir_environment.failures.pop(), LookupError)
    """)
    result = project.runpytest()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*LookupError: the scenario has no answer to this", "*RuntimeError: the local server failed*"])


def test_nothing_is_left_after_a_test(project: pytest.Pytester) -> None:
    """The next test finds no thread of the server, nothing that listens, and no open socket (a warning, which is an error)."""
    project.makepyfile("""
        import gc, socket, threading
        import pytest

        ports, clients = [], []

        def test_one(pixir_server):
            ports.append(pixir_server.port)
            clients.append(socket.create_connection(("127.0.0.1", pixir_server.port), 5))
            assert "pixir-local-server" in [thread.name for thread in threading.enumerate()]

        def test_two():
            assert "pixir-local-server" not in [thread.name for thread in threading.enumerate()]
            assert clients[0].recv(1) == b""
            clients[0].close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", ports[0]), 5)
            gc.collect()
    """)
    before = threading.active_count()
    project.runpytest().assert_outcomes(passed=2)
    assert threading.active_count() == before


def test_unittest_classes_use_it(project: pytest.Pytester) -> None:
    """A TestCase takes the environment by usefixtures, and the server by a fixture of its own."""
    project.makepyfile("""
        import unittest
        import pytest
        from program import ask

        @pytest.mark.usefixtures("pixir_environment")
        class FirstTest(unittest.TestCase):
            def test_one(self):
                self.assertEqual(ask("Hello"), "Heard: Hello (context: 1)")

        @pytest.mark.pixir_server(model="other")
        class SecondTest(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _server(self, pixir_environment):
                self.server = pixir_environment

            def test_two(self):
                self.assertEqual(ask("Hello"), "Heard: Hello (context: 1)")
                self.assertEqual(self.server.requests.only.model, "other")
    """)
    project.runpytest().assert_outcomes(passed=2)


def test_a_project_can_switch_it_off(project: pytest.Pytester) -> None:
    """With -p no:pixir_sync there is no such fixture; the server itself can still be used."""
    project.makepyfile("""
        from pixir_sync.local import LocalServer

        def test_one():
            with LocalServer() as server:
                assert server.port

        def test_two(pixir_server): pass
    """)
    result = project.runpytest("-p", "no:pixir_sync")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'pixir_server' not found*"])


def test_without_aiohttp_the_extra_is_named(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test that uses the fixture fails, and its error says what to install."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    project.makepyfile("def test_one(pixir_server): pass\ndef test_two(): pass")
    result = project.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the local server needs aiohttp: pip install 'pixir-sync[[]local[]]'*"])


def test_importing_it_imports_no_server() -> None:
    """Every run of pytest imports the plugin: it brings in neither the local server nor aiohttp, and starts no thread."""
    code = (
        "import sys, threading, pixir_sync.pytest_plugin\n"
        "print(any(name.startswith(('pixir_sync.local', 'aiohttp')) for name in sys.modules), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["False", "1"]
