"""The counting itself, on functions whose counts are known."""

from __future__ import annotations

import dis
import gc
import os
import platform
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.benchmarks.counting import counting, kept_by, system_calls, uncollected
from tests.benchmarks.lockstep import may_block

NOT_HERE = "nowhere"  # what is in this file counts
ONE_VERSION = pytest.mark.skipif(sys.version_info[:2] != (3, 11) or platform.python_implementation() != "CPython",
                                 reason="counts are those of CPython 3.11")  # fmt: skip


def straight(number: int) -> int:
    number += 1
    return number


def numbers() -> Iterator[int]:
    yield 1
    yield 2


@ONE_VERSION
def test_each_bytecode_of_a_call_counts() -> None:
    """As many as `dis` shows of a function without a branch, and nothing of what called it."""
    with counting(aside=NOT_HERE) as counts:
        straight(1)
    shown = [one.opname for one in dis.get_instructions(straight)]
    assert shown.pop(0) == "RESUME"
    assert counts.bytecodes == {straight.__code__: len(shown)}
    assert counts.calls == {straight.__code__: 1}
    assert counts.table(1) == [("test_counting:straight", len(shown), 1)]


def test_a_generator_counts_each_time_it_goes_on() -> None:
    """Twice to its values and once to its end."""
    with counting(aside=NOT_HERE) as counts:
        for _ in numbers():
            pass
    assert counts.calls[numbers.__code__] == 3


def test_what_is_aside_is_not_counted() -> None:
    """The harness costs nothing."""
    with counting(aside=__file__) as counts:
        straight(1)
        len("")
    assert not counts.bytecodes and not counts.c_calls


def test_locks_count_however_they_are_taken() -> None:
    """By `with`, by `acquire`, and the one inside of a Condition."""
    lock, condition = threading.Lock(), threading.Condition(threading.Lock())

    def taking() -> None:
        with lock:
            pass
        lock.acquire()
        lock.release()
        with condition:
            pass

    with counting(aside=NOT_HERE) as counts:
        taking()
    assert counts.locks == 3


def test_system_calls_are_told_by_their_functions() -> None:
    """A read is one, and two where a timeout makes Python poll first; what only computes is none."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.settimeout(5)
        assert [system_calls(end.recv) for end in (one, other)] == [1, 2]
        assert [may_block(end.recv) for end in (one, other)] == [False, True]
        assert [*map(system_calls, (one.send, one.settimeout, one.fileno, one.gettimeout))] == [1, 1, 0, 0]
    assert [*map(system_calls, (os.urandom, time.monotonic, len, "".join))] == [1, 0, 0, 0]


def test_only_the_counting_thread_counts() -> None:
    """Another thread's work is not in the sum."""
    begin, ended = threading.Event(), threading.Event()

    def work() -> None:
        begin.wait(10)
        straight(1)
        ended.set()

    thread = threading.Thread(target=work, name="counted-by-nobody")
    thread.start()
    with counting(aside=NOT_HERE) as counts:
        begin.set()
        assert ended.wait(10)
    thread.join(10)
    assert straight.__code__ not in counts.calls


def test_a_tracer_that_was_there_is_back() -> None:
    """Whatever watches this process goes on."""
    before = sys.gettrace(), sys.getprofile()
    with pytest.raises(ValueError, match="out"), counting():
        raise ValueError("out")
    assert (sys.gettrace(), sys.getprofile()) == before
    assert gc.isenabled()


def test_what_is_kept_is_seen() -> None:
    """The bytes that a function leaves behind, and the peak of what it dropped again."""
    kept: list[bytes] = []
    tracemalloc.start()
    try:
        with uncollected():
            found = kept_by(lambda: kept.append(bytes(100_000)))
            dropped = kept_by(lambda: bytes(100_000) and None)
    finally:
        tracemalloc.stop()
    assert 100_000 <= found.kept < 102_000
    assert dropped.kept < 2_000 and 100_000 <= dropped.peak < 102_000
