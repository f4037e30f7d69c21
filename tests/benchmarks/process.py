"""Runs of one client, each a process of its own: in turn, in the environment that the client needs.

Rules kept here:

* The official SDK has a virtual environment of its own, made once from the package index with the Python that runs this.
* What is compared runs side by side: A B A B. Round by round, never all of one client and then all of the other.
* A client finds the peer and nothing else: no proxy, no other authority, none of the caller's settings of endpoints and keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.benchmarks.peer import Peer
from tests.benchmarks.section import Setting

__all__ = ["OFFICIAL", "ROOT", "Case", "cases", "environ", "interleaved", "official_python", "run"]

OFFICIAL = "3.51.0"
"""The version of the official SDK."""

ROOT = Path(__file__).parents[2]
_CLIENTS = Path(__file__).with_name("clients.py")
_DEADLINE = 300.0
_DROPPED = ("PYTHONPATH", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_WAYS = {"websocket": "WebSocket", "sse": "SSE", "http": "HTTP"}

Found = TypeVar("Found")


class Case(NamedTuple):
    """One client in one setting. ``codec`` is the JSON library of the provider, ``""`` for the others."""

    client: str
    protocol: str
    secure: bool = False
    codec: str = ""

    @property
    def official(self) -> Case:
        """What it is compared with."""
        return Case("official", self.protocol, self.secure)

    @property
    def name(self) -> str:
        """The client and its variant."""
        names = {"official": f"official SDK {OFFICIAL}", "raw": "raw socket"}
        return names.get(self.client) or f"pixir_sync, {self.codec}"

    @property
    def over(self) -> str:
        """The protocol."""
        return _WAYS[self.protocol]

    @property
    def way(self) -> str:
        """The protocol, and whether TLS is below it."""
        return f"{self.over}, {'TLS' if self.secure else 'plain'}"


def cases(
    protocols: Sequence[str], codecs: Sequence[str], *, secure: Sequence[bool] = (False,), raw: bool = False
) -> Iterator[Case]:
    """All cases, so ordered that what is compared runs side by side; with ``raw`` a raw socket beside those over WebSocket."""
    for tls in secure:
        for protocol in protocols:
            yield Case("official", protocol, tls)
            for codec in codecs:
                yield Case("pixir", protocol, tls, codec)
            if raw and protocol == "websocket":
                yield Case("raw", protocol, tls)


def interleaved(what: str, todo: Iterable[Case], rounds: int, measure: Callable[[Case], Found]) -> dict[Case, list[Found]]:
    """What each case gave in each round."""
    found: dict[Case, list[Found]] = {case: [] for case in todo}
    for number in range(rounds):
        print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr)
        for case, samples in found.items():
            samples.append(measure(case))
    return found


def run(case: Case, peer: Peer, setting: Setting, *options: str) -> dict[str, Any]:
    """Run a client once and give what it printed, and as ``peer`` the share of a core that the peer used meanwhile, at most.

    Raises CalledProcessError; what the client said of it has been shown.
    """
    python = setting.official if case.client == "official" else Path(sys.executable)
    url = peer.tls if case.secure else peer.plain
    command = [str(python), "-P", str(_CLIENTS), case.client, case.protocol, url, *options]
    if case.codec == "json":
        command.append("--no-orjson")
    env = environ(peer.authority) | ({"PYTHONPATH": str(ROOT)} if case.client == "pixir" else {})
    used = peer.cpu()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=_DEADLINE)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "peer": (peer.cpu() - used) / found["wall"]}


def environ(authority: str) -> dict[str, str]:
    """The environment of a client: the peer's authority is trusted, no proxy stands between."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED and not name.startswith(("OPENAI_", "PIXIR_")) and not name.lower().endswith("_proxy")
    }
    return {**kept, "SSL_CERT_FILE": authority, "PIXIR_CONFIG": os.devnull}


def official_python(folder: Path) -> Path:
    """The interpreter of the official SDK's environment, which is made where it is missing.

    Raises FileExistsError where the folder holds something else, which making it would delete.
    """
    python = folder / "bin" / "python"
    probe = "from importlib.metadata import version as v; import websockets; print(v('openai'))"
    if python.exists():
        done = subprocess.run([str(python), "-c", probe], capture_output=True, text=True, timeout=_DEADLINE)
        if done.stdout.strip() == OFFICIAL:
            return python
    if folder.exists() and not (folder / "pyvenv.cfg").exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and no virtual environment")
    print(f"making {folder} with openai[realtime]=={OFFICIAL}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"openai[realtime]=={OFFICIAL}"]
    subprocess.run(command, check=True, timeout=_DEADLINE, stdout=sys.stderr)
    return python
