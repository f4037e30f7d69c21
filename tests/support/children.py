"""Children of the test's process, made by a fork: what they do, and what came of it.

Rules kept here:

* A child runs one function, tells what it gave or raised, and leaves by `os._exit`: no fixture and no test runs on in it.
* The parent waits with a deadline, and ends a child that is late, after it has told where it stands.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["Child", "in_child"]

DEADLINE = 20.0


class Child:
    """A forked process that runs ``work``. What `result` gives is what that returned."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._pipe, told = os.pipe()
        faulthandler.register(signal.SIGUSR2, file=told)  # here, for a child that stands in what is called after a fork
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._pipe)
                _tell(told, work)
                status = 0
            finally:
                os._exit(status)
        faulthandler.unregister(signal.SIGUSR2)
        os.close(told)

    def result(self, deadline: float = DEADLINE) -> Any:
        """What the work returned. Raises AssertionError with the traceback of what it raised, or after the deadline."""
        until, data = time.monotonic() + deadline, b""
        try:
            while True:
                ready, _, _ = select.select([self._pipe], [], [], max(0.0, until - time.monotonic()))
                if not ready:
                    raise AssertionError(f"the child did not end within {deadline} s; it stands at\n{self._end()}")
                part = os.read(self._pipe, 65536)
                if not part:
                    break
                data += part
        finally:
            os.close(self._pipe)
            os.waitpid(self.pid, 0)
        assert data, "the child died without a word"
        ended, value = pickle.loads(data)
        assert ended, f"in the child:\n{value}"
        return value

    def _end(self) -> str:
        """End a child that is late. Returns the stacks of its threads."""
        os.kill(self.pid, signal.SIGUSR2)
        ready, _, _ = select.select([self._pipe], [], [], 1.0)
        where = os.read(self._pipe, 65536) if ready else b"nowhere: it does not answer a signal"
        os.kill(self.pid, signal.SIGKILL)
        return where.decode(errors="replace")


def in_child(work: Callable[[], Any]) -> Any:
    """What this function gives in a child."""
    return Child(work).result()


def _tell(pipe: int, work: Callable[[], Any]) -> None:
    try:
        told = pickle.dumps((True, work()))
    except BaseException:
        told = pickle.dumps((False, traceback.format_exc()))
    with os.fdopen(pipe, "wb") as out:
        out.write(told)
