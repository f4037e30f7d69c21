"""`JsonLines`: one line of JSON for each turn.

Rules kept here:

* A line is one write to a file that was opened for appending: the lines of threads and of processes do not mix.
* A line that could not be finished, by an earlier process or on a full disk, is ended first, so that it spoils no other.
* The lock is for the end: no write goes to a number that another file has got meanwhile.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from typing import Any, Protocol

from pixir_sync.forking import watch
from pixir_sync.hooks.record import TurnRecord
from pixir_sync.protocol.codec import dumps
from pixir_sync.protocol.errors import InvalidRequest

__all__ = ["JsonLines"]


class _File(Protocol):
    def write(self, data: Any, /) -> object: ...
    def flush(self) -> object: ...


def _torn(number: int, path: str) -> bool:
    """Whether the file ends within a line."""
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode) or not facts.st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _takes_bytes(file: _File) -> bool:
    """Whether bytes are to be written to it; else text, as to anything of which nothing is known."""
    if isinstance(file, (io.RawIOBase, io.BufferedIOBase)):
        return True
    return "b" in str(getattr(file, "mode", "")) and not hasattr(file, "encoding")


class JsonLines:
    """A hook that appends one line of JSON for each turn: the fields of `TurnRecord`. Threads and processes may share a file.

    A path is opened here and closed by `close`, or by ``with``; it goes over forks, and pickles. A file object is the caller's:
    written to (bytes where it is binary, else text), flushed after each line, and never closed.

    Raises:
        InvalidRequest: for what is neither a path nor has ``write`` and ``flush``. OSError: where the path cannot be opened.
    """

    def __init__(self, path_or_file: str | os.PathLike[str] | _File) -> None:
        self._path: str | None = None
        self._file: _File | None = None
        self._number: int | None = None
        self._binary = True
        self._short = False  # whether the last line of ours was not finished
        if isinstance(path_or_file, (str, os.PathLike)):
            self._path = os.path.abspath(path_or_file)
            self._number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if _torn(self._number, self._path):
                os.write(self._number, b"\n")
        elif callable(getattr(path_or_file, "write", None)) and callable(getattr(path_or_file, "flush", None)):
            self._file, self._binary = path_or_file, _takes_bytes(path_or_file)
        else:
            raise InvalidRequest(f"path_or_file must be a path or a file, not {type(path_or_file).__name__}")
        self.after_fork()
        watch(self)

    def after_fork(self) -> None:
        """In a child process: the file is the same, and the lock nobody's."""
        # Held while a line is written, and while the file is closed. Reentrant: a signal handler may end a turn, too.
        self._lock = threading.RLock()

    def __call__(self, record: TurnRecord) -> None:
        """Write the line. Raises OSError, and ValueError after `close`."""
        line = dumps(record.to_dict()) + b"\n"
        with self._lock:
            if self._number is not None:
                self._append(self._number, line)
            elif self._file is not None:
                self._file.write(line if self._binary else line.decode())
                self._file.flush()
            else:
                raise ValueError("the file of the hook is closed")

    def _append(self, number: int, line: bytes) -> None:
        """Write the line; behind one that was not finished, on a line of its own. For a caller that holds the lock."""
        left = b"\n" + line if self._short else line
        while left:  # more than one round only where the disk is full
            left = left[os.write(number, left) :]
            self._short = len(left) not in (0, len(line))

    def close(self) -> None:
        """Write no more, and close what was opened here. Idempotent."""
        with self._lock:
            number, self._number, self._file = self._number, None, None
            if number is not None:
                os.close(number)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        number, self._number = getattr(self, "_number", None), None
        if number is not None:
            os.close(number)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            raise TypeError("a JsonLines of a file object does not pickle: give it a path")
        return JsonLines, (self._path,)

    def __repr__(self) -> str:
        is_open = self._number is not None or self._file is not None
        return f"<JsonLines {(self._path or 'file') if is_open else 'closed'}>"
