"""Runs a client of a comparison as a process of its own, by its path: the official SDK's environment has nothing else of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.section import Setting

__all__ = ["OFFICIAL", "ROOT", "Client", "clients", "environ", "run"]

OFFICIAL = "3.51.0"
ROOT = Path(__file__).parents[2]
_DEADLINE = 300.0


class Client(NamedTuple):
    """One SDK. ``codec`` is the JSON library of ours, ``""`` for the official one."""

    sdk: str
    codec: str = ""

    @property
    def name(self) -> str:
        return f"pixir_sync, {self.codec}" if self.codec else f"official SDK {OFFICIAL}"


def clients(setting: Setting) -> list[Client]:
    """The clients to compare: ours with each JSON library and, unless the setting leaves it out, the official one."""
    ours = [Client("pixir", codec) for codec in setting.codecs]
    return ours if setting.without_official else [*ours, Client("official")]


def environ(authority: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a client: the peer's authority is trusted, no proxy stands between, bytecode is kept."""
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.lower().endswith("_proxy")}
    return {**kept, "SSL_CERT_FILE": authority, **(more or {})}


def run(
    script: Path, client: Client, setting: Setting, authority: str, *options: object, deadline: float = _DEADLINE
) -> Any:
    """Run a client's script once and give what it printed, which is JSON.

    Raises CalledProcessError, where what it said has been shown, and TimeoutExpired after the deadline, in seconds.
    """
    python = setting.official if client.sdk == "official" else Path(sys.executable)
    command = [str(python), "-P", str(script), client.sdk, *map(str, options)]
    more = {"PYTHONPATH": str(ROOT)} if client.codec else {}
    if client.codec == "json":
        command.append("--no-orjson")
    done = subprocess.run(
        command, env=environ(authority, more), stdout=subprocess.PIPE, text=True, check=True, timeout=deadline
    )
    return json.loads(done.stdout)
