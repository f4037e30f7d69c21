"""What the tests of the command line share: the real command in a process or here, a terminal, and scripted answers."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pixir_sync
from pixir_sync.local import LocalServer, Pause, Scenario, Step

LIMIT = 20.0  # seconds that any command may take here, at most
COMMAND = [sys.executable, "-m", "pixir_sync.cli"]
_ROOT = str(Path(pixir_sync.__file__).resolve().parents[1])
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def failed_with(self, text: str, status: int = 1) -> bool:
        """Whether it failed with this status and one line on stderr that has this text."""
        lines = self.err.splitlines()
        return self.status == status and len(lines) == 1 and lines[0].startswith("pixir-sync: ") and text in lines[0]


def environment(home: Path, **given: str) -> dict[str, str]:
    """An environment with no key, no proxy and no configuration, but what is given."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    own = {"HOME": str(home), "PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return {**kept, **own, **given}


def start(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """The command, running, with pipes."""
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *arguments], env=env, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8")


def ended(process: subprocess.Popen[str], stdin: str | None = None) -> Done:
    """The end of a running command, which must come in time."""
    try:
        out, err = process.communicate(stdin, timeout=LIMIT)
    finally:
        process.kill()
    return Done(process.returncode, out, err)


def refused_url() -> str:
    """A base URL on a port where nothing listens."""
    with LocalServer() as server:
        url = server.base_url
    return url


def created() -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}


def delta(text: str) -> dict[str, Any]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {"type": "response.output_text.delta", **place, "delta": text}


def completed(text: str, kind: str = "output_text", **fields: Any) -> dict[str, Any]:
    content = [{"type": kind, "refusal" if kind == "refusal" else "text": text}]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
    response = {"id": "resp_1", "status": "completed", "model": "scripted", "output": [item], **fields}
    return {"type": f"response.{response['status']}", "response": response}


def says(*parts: str | Step) -> Scenario:
    """A scenario that answers with these pieces of text; other steps stand between them as they are."""

    def scenario(body: dict[str, Any]) -> Iterator[Step]:
        yield created()
        for part in parts:
            yield delta(part) if isinstance(part, str) else part
        yield completed("".join(part for part in parts if isinstance(part, str)))

    return scenario


def reached(pause: Pause) -> bool:
    """Whether the server comes to this pause in time."""
    return pause.reached.wait(LIMIT)


class Terminal:
    """A command on a pseudo-terminal of its own, which is its controlling one: Ctrl-C is a key here."""

    def __init__(self, env: dict[str, str], *arguments: str, term: str = "xterm-256color") -> None:
        self._main, self._side = pty.openpty()
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        # The first terminal that the leader of a session opens becomes its controlling one.
        shell = ["sh", "-c", 'exec "$@" <"$SIDE" >"$SIDE" 2>&1', "sh", *COMMAND, *arguments]
        env = {**env, "TERM": term, "SIDE": os.ttyname(self._side)}
        self.process = subprocess.Popen(shell, env=env, start_new_session=True)
        self.shown = ""

    def keys(self, text: str) -> None:
        os.write(self._main, text.encode())

    def until(self, text: str, after: int = 0) -> int:
        """Wait until this text is shown, somewhere after a place; the place where it ends."""
        end = time.monotonic() + LIMIT
        while text not in self.shown[after:]:
            if not select.select([self._main], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come; there was {self.shown[after:]!r}")
            self.shown += os.read(self._main, 65536).decode(errors="replace")
        return self.shown.index(text, after) + len(text)

    def status(self) -> int:
        """The exit status, once all that was shown is read."""
        status = self.process.wait(LIMIT)
        while select.select([self._main], [], [], 0)[0]:
            self.shown += os.read(self._main, 65536).decode(errors="replace")
        return status

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(LIMIT)
        os.close(self._main)
        os.close(self._side)


_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|\x1b.|[^\x1b\r\n]+")


class Screen:
    """The part of a terminal that the command line uses: text, colours, cursor up, erase; lines that scroll away are kept."""

    def __init__(self, rows: int) -> None:
        self._rows, self._row, self._column = rows, 0, 0
        self._lines = [""]

    def feed(self, text: str) -> None:
        for code in _CODE.finditer(text):
            self._take(code[0], code[1] or "", code[2])

    @property
    def lines(self) -> list[str]:
        """All lines, those that scrolled away too, without white space at their ends."""
        found = [line.rstrip() for line in self._lines]
        while found and not found[-1]:
            found.pop()
        return found

    def _take(self, code: str, argument: str, command: str | None) -> None:
        match command:
            case "A":  # the cursor cannot leave the screen
                self._row = max(self._row - int(argument or 1), len(self._lines) - self._rows, 0)
            case "K":
                self._lines[self._row] = self._lines[self._row][: self._column]
            case "J":
                self._lines[self._row] = self._lines[self._row][: self._column]
                del self._lines[self._row + 1 :]
            case "m":
                return
            case None:
                self._text(code)
            case _:
                raise AssertionError(f"a code that this screen does not know: {code!r}")

    def _text(self, text: str) -> None:
        if text == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self._lines):
                self._lines.append("")
        elif text == "\r":
            self._column = 0
        else:
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
            self._column += len(text)
