"""Runs a soak: starts both sides, watches, replaces providers, switches the collector, and counts what is left at the end.

Rules kept here:

* A watchdog writes every thread's stack and ends the run where one call takes longer than all of its limits together, or where
  nothing ends any more.
* At the end threads, descriptors and memory are back, and none of the library's objects is left.
* Warnings, exceptions in threads and in finalisers, and log lines that hold content are defects.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pixir_sync import PixirError, Provider
from tests.soak.figures import Figures
from tests.soak.forks import Forks
from tests.soak.stage import STAGES, Stage
from tests.soak.words import KEY, SENTINEL
from tests.soak.worker import Worker, collect
from tests.support import stress
from tests.support.stress import Alarm, settle

__all__ = ["soak"]

Json = dict[str, Any]

_STUCK = 75.0  # seconds; longer than all the limits of a call, its replays and a child
_STILL = 30.0  # seconds in which something must end
_RAW_SWAP, _SWAP = 9.0, 2.0  # seconds between two replacements of providers
_PAUSE = 0.3  # seconds that the raw peer's clients rest between two turns
_BLOCKS, _HEAP = 20_000, 4.0  # blocks of Python's, MB of the C library's: the most that may be in use more than before
_COUNTED = ("Connection", "ConnectionPool", "Engine", "Exchange", "Lane", "Lease", "Provider", "ResponseStream", "Turn", "Waiter")


class Ears(logging.Handler):
    """Hears every log line."""

    def __init__(self, figures: Figures) -> None:
        super().__init__(logging.DEBUG)
        self._figures = figures

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage() + (record.exc_text or "") + (str(record.exc_info[1]) if record.exc_info else "")
        if SENTINEL in said or KEY in said:
            self._figures.defect(f"a log line of {record.name} ({record.levelname}) holds content: {said[:200]}")
        if record.levelno > logging.INFO:
            self._figures.counts[f"log: {record.msg[:60]}"] += 1
            if record.name != "pixir_sync" or not record.msg.startswith("the warm-up did not succeed"):
                self._figures.defect(f"a log line of {record.name} ({record.levelname}): {said[:200]}")


@contextmanager
def _listening(figures: Figures) -> Iterator[None]:
    """Everything that Python complains about while the block runs is a defect."""
    ears, root = Ears(figures), logging.getLogger()
    before = (sys.unraisablehook, threading.excepthook)
    root.addHandler(ears)
    logging.getLogger("pixir_sync").setLevel(logging.DEBUG)
    sys.unraisablehook = lambda seen: figures.defect(f"in a finaliser: {seen.exc_value!r} {seen.object!r}")
    threading.excepthook = lambda seen: figures.defect(f"in thread {seen.thread}: {seen.exc_value!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        plain = warnings._showwarnmsg  # type: ignore[attr-defined]
        warnings._showwarnmsg = lambda message: figures.defect(_warned(message))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            warnings._showwarnmsg = plain  # type: ignore[attr-defined]
            root.removeHandler(ears)
            sys.unraisablehook, threading.excepthook = before


def _warned(message: warnings.WarningMessage) -> str:
    """A warning, and where its object was made if ``PYTHONTRACEMALLOC`` is set."""
    made = tracemalloc.get_object_traceback(message.source) if message.source is not None else None
    return f"a warning: {message.message}" + "".join(f"\n  {line}" for line in (made.format() if made else ()))


class Server:
    """The process of the local servers."""

    def __init__(self, seed: int, calm: bool) -> None:
        command = [sys.executable, "-m", "tests.soak.server", "--seed", str(seed), *(["--calm"] if calm else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.where: Json = json.loads(self._process.stdout.readline())

    def end(self) -> Json:
        """Let it end, and tell what it saw."""
        told, _ = self._process.communicate(timeout=60)
        found: Json = json.loads(told.splitlines()[-1])
        return found


class Pulse:
    """How late this machine is: a thread that sleeps, and looks by how much it overslept."""

    def __init__(self, figures: Figures) -> None:
        self._figures, self._stop = figures, threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak-pulse")
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            before = time.monotonic()
            self._stop.wait(0.05)
            self._figures.slowest_pulse = max(self._figures.slowest_pulse, time.monotonic() - before - 0.05)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


class Raw:
    """The raw peer's part: the workers of the stress test, plain and over TLS."""

    def __init__(self, seed: int, threads: int, alarm: Alarm) -> None:
        self.figures = stress.Figures(seed)
        self._servers = [stress.Server(seed, tls) for tls in (False, True)]
        self.stages = [stress.Stage(server, way, self.figures) for server in self._servers for way in ("websocket", "auto")]
        stages = self.stages
        self.workers = [stress.Worker(n, seed, stages[n % len(stages)], alarm, 4, _PAUSE) for n in range(threads)]

    def end(self, figures: Figures) -> None:
        for worker in self.workers:
            self.figures.add(worker.figures)
        self.workers.clear()
        for stage in self.stages:
            stage.end()
        self.stages.clear()
        counts: Counter[str] = Counter()
        for server in self._servers:
            told = server.end()
            counts.update(told["counts"])
            self.figures.defects += [f"the peer says: {defect}" for defect in told["defects"]]
            if told["open"]:
                self.figures.defects.append(f"left over: {told['open']} connections at the raw peer")
        self.figures.server, self.figures.seconds = {"counts": counts}, figures.seconds
        for defect in self.figures.defects:
            figures.defect(f"raw peer: {defect}")
        figures.raw.append(self.figures)
        figures.slowest_cancel = max(figures.slowest_cancel, self.figures.slowest_cancel)


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: int, threads: int, calm: bool) -> None:
        way = f" --threads {threads}" * (threads != 64) + " --calm" * calm
        self.figures = Figures(seed, f"tox -e soak -- --seconds {seconds:.0f} --seed {seed}{way}")
        self._rng = random.Random(f"{seed} director")
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._server = Server(seed, calm)
        self._alarm, self._pulse = Alarm(), Pulse(self.figures)
        self._stages = [Stage(n, plan, self._server.where, seed, self.figures) for n, plan in enumerate(STAGES)]
        raw = threads // 4
        self._raw = Raw(seed, raw, self._alarm)
        forks = Forks(self.figures)
        homes = [number for number, plan in enumerate(STAGES) for _ in range(plan.threads)]
        self._workers = [
            Worker(n, seed, self._stages, homes[n % len(homes)], self.figures, self._alarm, forks) for n in range(threads - raw)
        ]
        self._moved = (0, time.monotonic())

    def warm_up(self) -> float:
        """Let everything be imported and made that is made once; the memory then, in MB."""
        for stage in self._stages:
            with Provider(**stage.options("warm")) as provider, suppress(PixirError):
                provider.complete("warm")
        gc.collect()
        self.figures.in_use.append(_in_use())
        return _megabytes()

    def run(self) -> bool:
        """Whether it came to its end."""
        for worker in self._everybody():
            worker.thread.start()
        swap, raw_swap, looked = time.monotonic() + _SWAP, time.monotonic() + _RAW_SWAP, 0.0
        while True:
            time.sleep(0.1)
            now = time.monotonic()
            if self._hangs(now):
                return False
            for stage in self._stages:
                stage.look()
            if now - looked > max(1.0, (self._until - self._began) / 100):
                self._look_at_the_process()
                looked = now
                if self._until - self._began > 60:
                    print(self.figures.line(), file=sys.stderr, flush=True)
            if now > self._until:
                if self._stopped():
                    return True
                continue
            if now > swap:
                weights = [2 if stage.plan.transport == "auto" else 1 for stage in self._stages]  # each has a breaker of its own
                self._replace(self._rng.choices(self._stages, weights)[0])
                swap = now + _SWAP
            if now > raw_swap:
                self._rng.choice(self._raw.stages).swap()
                raw_swap = time.monotonic() + _RAW_SWAP

    def _replace(self, stage: Stage) -> None:
        stage.swap()
        for other in self._stages:
            other.settle()
        with self.figures.lock:
            self.figures.counts[f"collector {collect(self._rng)}"] += 1

    def _stopped(self) -> bool:
        for worker in self._everybody():
            worker.stop.set()
        return not any(worker.thread.is_alive() for worker in self._everybody())

    def _everybody(self) -> list[Worker | stress.Worker]:
        return [*self._workers, *self._raw.workers]

    def _hangs(self, now: float) -> bool:
        begun = [(worker, worker.begun) for worker in self._everybody()]
        stuck = [w.thread.name for w, since in begun if since is not None and now - since > _STUCK]
        done = sum(worker.calls for worker in self._workers)
        if done != self._moved[0]:
            self._moved = (done, now)
        alive = any(worker.thread.is_alive() for worker in self._workers)
        if not stuck and not (alive and now - self._moved[1] > _STILL):
            return False
        doing = [f"{w.thread.name}: {w.doing}" for w in self._workers if w.begun is not None and now - w.begun > _STILL]
        self.figures.defect(f"hangs: {stuck or 'everybody'}; {doing}")
        faulthandler.dump_traceback(all_threads=True)
        return True

    def _look_at_the_process(self) -> None:
        figures = self.figures
        names = Counter(thread.name for thread in threading.enumerate())
        figures.most_threads = max(figures.most_threads, sum(names.values()))
        figures.most_descriptors = max(figures.most_descriptors, _descriptors())
        figures.memory.append((time.monotonic() - self._began, _megabytes()))
        providers = sum(1 + len(stage.old) for stage in self._stages) + 2 * len(self._raw.stages)
        if names["pixir-keepalive"] > providers:
            figures.defect(f"{names['pixir-keepalive']} keepalive threads for {providers} providers")

    def end(self) -> None:
        """Everything is given back, and the books agree."""
        figures = self.figures
        self._workers.clear()
        for stage in self._stages:
            stage.end(stage.now)
        self._raw.end(figures)
        self._alarm.end()
        for stage in self._stages:
            for old in stage.old:
                settle(lambda old=old: old.running, 0)  # type: ignore[misc]
                if not old.forgotten:
                    settle(lambda old=old: old.keepalive is None or not old.keepalive.is_alive(), True)  # type: ignore[misc]
                stage.compare(old)
            forgotten = [old for old in stage.old if old.forgotten]
            del stage.now
            stage.old.clear()
            gc.collect()
            for old in forgotten:
                if settle(lambda old=old: old.websocket() is None, True) is not True:  # type: ignore[misc]
                    figures.defect(f"{old.name} was forgotten, and is not collected")
        self._pulse.end()
        self._stages.clear()
        figures.server = self._server.end()
        self._judge()

    def _judge(self) -> None:
        figures = self.figures
        for name, told in figures.server.items():
            for failure in told["failures"]:
                figures.defect(f"the server {name} failed: {failure}")
            if told["left"]:
                figures.defect(f"{told['left']} WebSockets were left at the server {name}")
            for provider, most in told["most"].items():
                stage = provider.partition(".")[0]
                limit = STAGES[int(stage)].max_size if stage.isdecimal() else 4
                if most > limit:
                    figures.defect(f"the server saw {most} sockets of {provider}, whose limit is {limit}")
        for suspicion in figures.suspicions:
            if not suspicion.explained(figures.server[suspicion.place]["noise"]):
                figures.defect(f"nothing explains: {suspicion.call}")
        figures.counts["explained by noise"] = len(figures.suspicions)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def _in_use() -> tuple[int, float]:
    """What is allocated, not what the allocators keep: blocks of the interpreter's, and MB of the C library's (0: not known)."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return sys.getallocatedblocks(), 0.0
    ask.restype = _Mallinfo
    told = ask()
    return sys.getallocatedblocks(), (told.uordblks + told.hblkhd) / 1e6


def _left(before: tuple[int, int], figures: Figures) -> None:
    """What this process has more of than before."""

    def more() -> list[str]:
        found = (threading.active_count() - before[0], _descriptors() - before[1])
        return [f"{number} {name}" for number, name in zip(found, ("threads", "descriptors"), strict=True) if number > 0]

    gc.collect()
    for what in settle(more, []) or []:  # type: ignore[attr-defined]
        figures.defect(f"left over: {what}")
    gc.collect()
    ours = (type(one).__name__ for one in gc.get_objects() if str(type(one).__module__).startswith("pixir_sync"))
    for name, number in Counter(name for name in ours if name in _COUNTED).items():
        figures.defect(f"left over: {number} {name}")
    figures.memory.append((figures.seconds, _megabytes()))
    figures.in_use.append(_in_use())
    (blocks, heap), (blocks_now, heap_now) = figures.in_use
    if blocks_now > blocks + _BLOCKS or heap_now > heap + _HEAP:
        figures.defect(f"memory in use: {blocks} blocks and {heap:.1f} MB before, {blocks_now} and {heap_now:.1f} MB after")


def soak(seconds: float, seed: int, *, threads: int = 64, calm: bool = False) -> Figures:
    """Run it. What is wrong stands in the figures' ``defects``."""
    gc.collect()
    before, collecting = (threading.active_count(), _descriptors()), gc.isenabled()
    run = Soak(seconds, seed, threads, calm)
    figures = run.figures
    figures.memory.append((0.0, run.warm_up()))
    with _listening(figures):
        try:
            came = run.run()
            figures.seconds = time.monotonic() - run._began
            if came:
                run.end()
        finally:
            (gc.enable if collecting else gc.disable)()
        del run
        if came:
            _left(before, figures)
    if not came:
        print(figures.report(), flush=True)
        os._exit(1)  # threads that hang would keep it
    return figures
