"""Runs of one client, each a process of its own: in turn, in the environment that the client needs.

Rules kept here:

* The official SDK has a virtual environment of its own, made once from the package index with the Python that runs this.
* What is compared runs side by side: A B A B. Round by round, never all of one client and then all of the other.
* A client finds the peer and nothing else: no proxy, no other authority, none of the caller's settings of endpoints and keys.
* Its bytecode is kept, as it is of an installed package, whatever this process was told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from tests.benchmarks.peer import Peer
from tests.benchmarks.section import Setting

__all__ = [
    "OFFICIAL", "ROOT", "Case", "Trusted", "cases", "environ", "interleaved", "interpreter", "official_python", "run", "told",
]  # fmt: skip

OFFICIAL = "3.51.0"
"""The version of the official SDK."""

ROOT = Path(__file__).parents[2]
_CLIENTS = Path(__file__).with_name("clients.py")
_DEADLINE = 300.0
_DROPPED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_WAYS = {"websocket": "WebSocket", "sse": "SSE", "http": "HTTP"}

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Case(NamedTuple):
    """One client in one setting.

    Attributes:
        client: pixir, official or raw.
        does: the protocol, or what else a comparison tells its cases apart by.
        codec: the JSON library of the provider, ``""`` for the others.
    """

    client: str
    does: str
    secure: bool = False
    codec: str = ""

    @property
    def official(self) -> Case:
        """What it is compared with."""
        return Case("official", self.does, self.secure)

    @property
    def name(self) -> str:
        """The client and its variant."""
        names = {"official": f"official SDK {OFFICIAL}", "raw": "raw socket"}
        return names.get(self.client) or f"pixir_sync, {self.codec}"

    @property
    def over(self) -> str:
        """The protocol."""
        return _WAYS[self.does]

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


def interleaved(what: str, todo: Iterable[Key], rounds: int, measure: Callable[[Key], Found]) -> dict[Key, list[Found]]:
    """What each gave in each round: most often it is a `Case`."""
    found: dict[Key, list[Found]] = {key: [] for key in todo}
    for number in range(rounds):
        print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr)
        for key, samples in found.items():
            samples.append(measure(key))
    return found


class Trusted(Protocol):
    """A peer, of which a client is to trust the authority."""

    authority: str


def run(case: Case, peer: Peer, setting: Setting, *options: str) -> dict[str, Any]:
    """Run a client of streams once and give what it told, and as ``peer`` the share of a core that the peer used, at most."""
    used = peer.cpu()
    found: dict[str, Any] = told(_CLIENTS, case, peer, setting, case.does, peer.tls if case.secure else peer.plain, *options)
    return {**found, "peer": (peer.cpu() - used) / found["wall"]}


def told(script: Path, case: Case, peer: Trusted, setting: Setting, *options: object) -> Any:
    """Run a client's script once and give what it printed, which is JSON.

    Raises CalledProcessError, where what it said has been shown, and TimeoutExpired.
    """
    command = [interpreter(case, setting), "-P", str(script), case.client, *map(str, options)]
    if case.codec == "json":
        command.append("--no-orjson")
    env = environ(peer.authority) | ({"PYTHONPATH": str(ROOT)} if case.client == "pixir" else {})
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=_DEADLINE)
    return json.loads(done.stdout)


def interpreter(case: Case, setting: Setting) -> str:
    """The Python of the environment that has the client."""
    return str(setting.official) if case.client == "official" else sys.executable


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
