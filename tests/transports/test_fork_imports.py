"""A fork while another thread imports a part of the house at its first use: the child could never finish that import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pixir_sync.local import LocalServer

pytestmark = pytest.mark.row("B21")

# The finder holds the import of one module up until a child exists, or for a second, in which none came to be.
PROGRAM = """
import importlib.abc, sys, threading
from tests.support.children import Child
from pixir_sync import Network, Provider

wanted, transport, base_url, api_key = sys.argv[1:]
importing, forked, waits = threading.Event(), threading.Event(), []

class HeldUp(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == wanted and not importing.is_set():
            importing.set()
            waits.append(not forked.wait(1.0))

assert wanted not in sys.modules
sys.meta_path.insert(0, HeldUp())
provider = Provider(model="m", base_url=base_url, api_key=api_key, transport=transport, network=Network(trust_env=False))
said = []
thread = threading.Thread(target=lambda: said.append(provider.complete("parent").text))
thread.start()
assert importing.wait(10)
child = Child(lambda: provider.complete("child").text)
forked.set()
print(child.result())
thread.join(10)
print(said[0], "| the fork waited:", waits)
provider.close()
"""

# The same of what a provider's making imports: a folder of settings is there, and a hook was given.
MAKING = PROGRAM[: PROGRAM.index("provider = ")] + """
thread = threading.Thread(target=lambda: Provider(model="m", hooks=print))
thread.start()
assert importing.wait(10)
child = Child(lambda: Provider(model="child", hooks=print).default_model())
forked.set()
print(child.result(), "| the fork waited:", waits)
thread.join(10)
"""


@pytest.mark.parametrize(
    ("wanted", "transport"),
    [
        ("pixir_sync.transports.ws.upgrade", "websocket"),
        ("websocket", "websocket"),
        ("pixir_sync.transports.http.guard", "http_sse"),
        ("pixir_sync.transports.http.session", "http_sse"),
        ("requests", "http_sse"),
        ("sseclient", "http_sse"),
        ("pixir_sync.protocol.sse", "http_sse"),
    ],
)
def test_a_fork_waits_for_an_import_at_first_use(wanted: str, transport: str) -> None:
    """The child gets its answer, and so does the parent: the fork came after the import that was under way."""
    with LocalServer() as server:
        given = [wanted, transport, server.base_url, server.api_key]
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, *given]
        ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=55)
    assert ran.stderr == ""
    assert ran.stdout == "Heard: child (context: 1)\nHeard: parent (context: 1) | the fork waited: [True]\n"


@pytest.mark.parametrize("wanted", ["platformdirs", "pixir_sync.hooks.record"])
def test_a_fork_waits_for_what_a_provider_needs(wanted: str, tmp_path: Path) -> None:
    """A provider that is made while another thread makes the first one in the process."""
    (tmp_path / "pixir").mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PIXIR_CONFIG"} | {"XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", MAKING, wanted, "", "", ""]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, timeout=55)
    assert (ran.stdout, ran.stderr) == ("child | the fork waited: [True]\n", "")
