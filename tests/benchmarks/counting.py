"""Counts what a thread does: bytecodes, calls and system calls, and what memory it keeps. For CPython 3.11.

Rules kept here:

* What is counted does not depend on the machine's speed. Only the calling thread is counted, and nothing of the files in `aside`.
* Generators count as called each time they go on. RESUME, with which each call begins, is the call and no bytecode.
* A call of a C function is seen where Python code makes it. ``with lock:`` shows at its end, as ``lock.__exit__``; a call from C
  to C, such as that of a C function given to `map`, does not show.
* System calls are told by the C functions that make them (`system_calls`). What the interpreter does by itself, to hand over
  its own lock or to get memory, is no such call.
* Memory is measured without counting, and counting without measuring memory: each would see the other.
"""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

__all__ = ["Counts", "Memory", "counting", "kept_by", "system_calls", "uncollected"]

_HERE = str(Path(__file__).parent)
_WAITING = frozenset({
    "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "send", "sendall", "sendmsg", "connect", "accept",
})  # fmt: skip
_ONCE = frozenset({
    "connect_ex", "setsockopt", "getsockopt", "getpeername", "getsockname", "shutdown", "close", "settimeout", "setblocking",
    "bind", "listen",
})  # fmt: skip
_FUNCTIONS = frozenset({("posix", "urandom"), ("time", "sleep"), ("select", "select"), ("posix", "stat"), ("posix", "close")})


def system_calls(function: Any) -> int:
    """How many system calls a C function of Linux' CPython 3.11 makes, as ``strace -c -f`` counts them.

    Setting a timeout is one. A socket with a timeout is polled before each read and write. What makes, copies or closes a socket
    is no C function that shows: a first call has two more. For the streams and the turn the sum is exactly that of strace.
    """
    owner, name = getattr(function, "__self__", None), function.__name__
    if isinstance(owner, socket.SocketType):
        return 1 + bool(owner.gettimeout()) if name in _WAITING else int(name in _ONCE)
    if type(owner).__module__ == "select":
        return int(name == "poll")
    return int((getattr(function, "__module__", ""), name) in _FUNCTIONS)


@dataclass
class Counts:
    """What was counted, all of it a sum over the counted block.

    Attributes:
        bytecodes, calls: by function. c_calls: by the function's name. locks: locks that were taken. system: system calls.
    """

    bytecodes: Counter[CodeType] = field(default_factory=Counter)
    calls: Counter[CodeType] = field(default_factory=Counter)
    c_calls: Counter[str] = field(default_factory=Counter)
    system: int = 0

    @property
    def locks(self) -> int:
        return sum(number for name, number in self.c_calls.items() if name in _TAKEN)

    def figures(self, per: float) -> dict[str, float]:
        """The sums, by so many events, turns, or whatever it was."""
        return {
            "bytecodes": self.bytecodes.total() / per,
            "python calls": self.calls.total() / per,
            "c calls": self.c_calls.total() / per,
            "locks": self.locks / per,
            "system calls": self.system / per,
        }

    def table(self, per: float, length: int = 16) -> list[tuple[str, float, float]]:
        """The functions that cost most: where they are, bytecodes and calls."""
        return [(_place(code), number / per, self.calls[code] / per) for code, number in self.bytecodes.most_common(length)]


_TAKEN = frozenset(f"{kind}.{name}" for kind in ("lock", "RLock") for name in ("acquire", "__exit__"))


def _place(code: CodeType) -> str:
    """The module and the name of a function, as an import would name it."""
    path = Path(code.co_filename)
    parts = path.with_suffix("").parts
    known = [at for at, part in enumerate(parts) if part in ("site-packages", "pixir_sync") or part.startswith("python3")]
    first = known[-1] if known else len(parts) - 1
    inner = parts[first:] if parts[first] == "pixir_sync" else parts[first + 1 :] or parts[-1:]
    return f"{'.'.join(inner)}:{code.co_qualname}"


class counting:
    """Counts what this thread does in a ``with`` block, without the garbage collector; the block gets the `Counts`."""

    def __init__(self, before: Callable[[Any], None] | None = None, aside: str = _HERE) -> None:
        """``before`` is called with each C function before that is called; it does not count.

        ``aside``: code of files whose path begins like this is not counted, what it calls is.
        """
        self._counts, self._uncollected = Counts(), uncollected()
        asides = (aside, __file__)
        self._watch = _tracer(self._counts, asides), _profiler(self._counts, before, asides)

    def __enter__(self) -> Counts:
        self._before = sys.gettrace(), sys.getprofile()
        self._uncollected.__enter__()
        self._set(*self._watch)
        return self._counts

    def __exit__(self, *exc: Any) -> None:
        self._set(*self._before)
        self._uncollected.__exit__(*exc)

    @staticmethod
    def _set(trace: Any, profile: Any) -> None:
        sys.setprofile(profile)
        sys.settrace(trace)


def _tracer(counts: Counts, asides: tuple[str, ...]) -> Callable[[FrameType, str, Any], Any]:
    bytecodes, calls = counts.bytecodes, counts.calls

    def step(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            bytecodes[frame.f_code] += 1
        return step

    def called(frame: FrameType, _event: str, _: Any) -> Any:
        code = frame.f_code
        if code.co_filename.startswith(asides):
            return None
        calls[code] += 1
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return step

    return called


def _profiler(
    counts: Counts, before: Callable[[Any], None] | None, asides: tuple[str, ...]
) -> Callable[[FrameType, str, Any], None]:
    c_calls = counts.c_calls

    def profile(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        if before is not None:
            before(function)
        if not frame.f_code.co_filename.startswith(asides):
            c_calls[getattr(function, "__qualname__", function.__name__)] += 1
            counts.system += system_calls(function)

    return profile


class Memory(NamedTuple):
    """What a function left and took. ``kept``: bytes, ``blocks``: small objects, ``peak``: the most bytes above those before."""

    kept: int
    blocks: int
    peak: int


def kept_by(run: Callable[[], Any]) -> Memory:
    """What a function keeps; what this here keeps is in it, too, and is the same each time.

    Measured without the garbage collector (`uncollected`), and with tracemalloc since the process began: what was made before is
    not known to it, and may be used again.
    """
    assert tracemalloc.is_tracing() and not gc.isenabled()
    begun = _now()
    tracemalloc.reset_peak()
    run()
    ended = _now()
    return Memory(ended[0] - begun[0], ended[1] - begun[1], ended[2] - begun[0])


@contextmanager
def uncollected() -> Iterator[None]:
    """Run without the garbage collector, which runs once before."""
    collected = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _now() -> tuple[int, int, int]:
    kept, peak = tracemalloc.get_traced_memory()
    return kept, sys.getallocatedblocks(), peak
