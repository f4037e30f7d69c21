"""What an event, a turn and a first call may cost, in counts: ``python -m tests.benchmarks.budget``; ``--write`` renews it.

The counts are those of `tests.benchmarks.counting`, against a peer in lockstep (`tests.benchmarks.lockstep`). So they are the
same on every machine, and the check holds them to `budget.ini`.

Rules kept here:

* The scenarios of one JSON library run in a process of their own, with a fixed environment: neither coverage's tracer nor the
  machine's variables change a figure.
* There is one budget for one version of Python; bytecode differs between versions, so another one is held to nothing.
* A figure that is exceeded is told with what was measured, what is allowed, and the functions that cost most now.
* What counts is the consumer's thread. The keepalive thread is not started: it costs per second, not per event.
"""

from __future__ import annotations

import argparse
import configparser
import faulthandler
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.counting import Counts, counting, kept_by, uncollected
from tests.benchmarks.lockstep import Lockstep, Script

__all__ = ["BUDGET", "Budget", "Found", "codecs", "loose", "main", "measure", "over", "read", "renewed", "unheld", "write"]

ROOT = Path(__file__).parents[2]
BUDGET = Path(__file__).with_name("budget.ini")
LIBRARIES = ("orjson", "requests", "sseclient-py", "urllib3", "websocket-client")
HEADROOM, HEADROOM_OF_MEMORY = 1.05, 1.25
"""Above what was measured: other patch releases of the interpreter differ a little, in memory somewhat more."""
RENEW = "python -m tests.benchmarks.budget --write"

_DEADLINE = 120.0
_EVENTS = 208  # in a window
_BEYOND = 416  # events before a window in which memory is measured: no number in it is one that the interpreter keeps anyway
_BATCH = 104  # in a packet of the bulk answer: 24 KB, which is one read; the texts come again every 13 events
_ITEMS = 200  # of history
_OPENING = 4  # events of an answer before its deltas
_PROMPT = "Tell me all of it."

Figures = dict[str, float]
Table = list[tuple[str, float, float]]


class Found(NamedTuple):
    """What a scenario was measured to cost. ``table``: the functions with the most bytecodes, how many, and their calls."""

    figures: Figures
    table: Table


class Budget(NamedTuple):
    """What stands in the file: by scenario and figure what was measured, and the most that it may be."""

    python: str
    libraries: Mapping[str, str]
    figures: Mapping[str, Mapping[str, tuple[float, float]]]


# The scenarios.


@contextmanager
def _client(transport: str, scripts: Mapping[str, Script]) -> Iterator[tuple[Lockstep, Callable[[], Any]]]:
    """A peer, and what makes providers for it."""
    from pixir_sync import Provider
    from pixir_sync.transports.ws.keepalive import KeepaliveThread

    assert callable(KeepaliveThread.ensure)  # else the next line would change nothing
    KeepaliveThread.ensure = lambda self: None  # type: ignore[method-assign]
    with Lockstep(scripts) as peer:
        peer.watch()
        try:
            yield peer, lambda: Provider(api_key="sk-none", base_url=peer.base_url, model="answer", transport=transport)
        finally:
            sys.setprofile(None)


def stream(transport: str, at_once: int) -> Found:
    """Per event, between two events of a stream that both were the last ones of their packets."""
    with _stream(transport, at_once, _EVENTS) as (peer, events), counting(peer.before) as counts:
        _take(events, _EVENTS)
    return Found(counts.figures(_EVENTS), counts.table(_EVENTS))


def memory(transport: str, at_once: int) -> Figures:
    """What an event keeps, from two lengths, so that what the measuring keeps drops out; what a packet needs at the peak."""
    with uncollected(), _stream(transport, at_once, _BEYOND) as (_, events):
        texts: list[int] = []
        once, twice = (kept_by(lambda: texts.append(_take(events, times * _EVENTS))) for times in (1, 2))  # noqa: B023
        packet = kept_by(lambda: _take(events, at_once))
    return {
        "blocks kept": (twice.blocks - once.blocks) / _EVENTS,
        "bytes kept beside the text": (twice.kept - once.kept - texts[1] + texts[0]) / _EVENTS,
        "bytes at the peak": packet.peak / at_once,
    }


@contextmanager
def _stream(transport: str, at_once: int, skipped: int) -> Iterator[tuple[Lockstep, Iterator[Any]]]:
    """The events of a second answer, after so many deltas of it; it is left before its end."""
    scripts = {"short": Script(2, together=True), "answer": Script(skipped + 5 * _EVENTS, at_once)}
    with _client(transport, scripts) as (peer, provider), provider() as client:
        client.complete(_PROMPT, model="short")
        events = client.stream(_PROMPT)
        _take(iter(events), _OPENING + skipped)
        yield peer, iter(events)
        events.close()


def _take(events: Iterator[Any], number: int) -> int:
    """Read so many events; the size of their texts, as objects."""
    return sum(sys.getsizeof(event.text) for event in islice(events, number))


def turn() -> Found:
    """A turn of a conversation whose history is kept: a short answer in one packet, at two lengths of the history."""
    short, long = _turn(_ITEMS), _turn(2 * _ITEMS)
    figures = short.figures(1)
    grown = {f"{name} per item of the history": (most - figures[name]) / _ITEMS for name, most in long.figures(1).items()}
    del grown["locks per item of the history"], grown["system calls per item of the history"]
    return Found({**figures, **grown}, short.table(1))


def _turn(items: int) -> Counts:
    """The counts of a turn that has this history."""
    history: list[Any] = []
    for number in range(items // 2):
        history += [_said("user", "input_text", f"Question {number}?"), _said("assistant", "output_text", f"Answer {number}.")]
    with _client("websocket", {"answer": Script(2, together=True)}) as (peer, provider), provider() as client:
        del history[-4:]
        for _ in range(2):  # in full, then as a delta
            history.append(_said("user", "input_text", "And then?"))
            history += client.complete(history, session="chat").output_items
        history.append(_said("user", "input_text", "And then?"))
        with counting(peer.before) as counts:
            result = client.complete(history, session="chat")
        assert result.provider_metadata["used_previous_response_id"] is True
        assert result.provider_metadata["input_items_total"] == items + 1
    return counts


def _said(role: str, kind: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def first_call(transport: str) -> Found:
    """The first call of a provider, from its making to its result: imports are done, the connection is made."""
    with _client(transport, {"answer": Script(2, together=True)}) as (peer, provider):
        for _ in range(2):
            with provider() as client:
                client.complete(_PROMPT)
        with counting(peer.before) as counts:
            client = provider()
            result = client.complete(_PROMPT)
        assert result.text
        client.close()
    return Found(counts.figures(1), counts.table(1))


SCENARIOS: dict[str, tuple[Callable[[], Found], Callable[[], Figures]]] = {
    "websocket bulk": (partial(stream, "websocket", _BATCH), partial(memory, "websocket", _BATCH)),
    "websocket paced": (partial(stream, "websocket", 1), partial(memory, "websocket", 1)),
    "sse bulk": (partial(stream, "http_sse", _BATCH), partial(memory, "http_sse", _BATCH)),
    "sse paced": (partial(stream, "http_sse", 1), partial(memory, "http_sse", 1)),
    "websocket turn": (turn, dict),
    "websocket first call": (partial(first_call, "websocket"), dict),
    "sse first call": (partial(first_call, "http_sse"), dict),
}
"""What is counted, and the memory that is measured, which comes first: it is slow to count while memory is watched."""


# A process for each JSON library.


def codecs() -> list[str]:
    """The JSON libraries that can be measured here."""
    return [*(["orjson"] if importlib.util.find_spec("orjson") is not None else []), "json"]


def measure(codec: str, scenarios: Sequence[str] = (*SCENARIOS,), *, prelude: str = "", memory: bool = True) -> dict[str, Found]:
    """Measure in a process of its own, by scenario. ``prelude``: code that runs there first. ``memory``: measure that, too.

    Raises RuntimeError with what the process said, if that failed.
    """
    code = f"{prelude}\nfrom tests.benchmarks.budget import count\ncount({codec!r}, {list(scenarios)!r}, {memory})"
    environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=_DEADLINE,
                          env={**environ, "PYTHONHASHSEED": "0", "PYTHONTRACEMALLOC": str(int(memory))})  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the counting failed\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {f"{name}, {codec}": Found(one["figures"], [tuple(row) for row in one["table"]]) for name, one in found.items()}


def count(codec: str, scenarios: Sequence[str], memory: bool) -> None:
    """Count in this process, and print what was found."""
    if codec == "json":
        sys.modules["orjson"] = None  # type: ignore[assignment]
    os.environ.clear()  # how many variables there are would count, too, and so would what is found at home
    os.environ["HOME"] = os.devnull
    faulthandler.dump_traceback_later(_DEADLINE / 2, exit=True)  # a wait that the peer in lockstep does not know would last
    kept = {name: SCENARIOS[name][1]() for name in scenarios} if memory else {}
    tracemalloc.stop()
    found = {name: SCENARIOS[name][0]() for name in scenarios}
    print(json.dumps({name: {"figures": one.figures | kept.get(name, {}), "table": one.table} for name, one in found.items()}))


# The budget.


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(_MODULES.get(name, name))}


_MODULES = {"sseclient-py": "sseclient", "websocket-client": "websocket"}


def unheld(budget: Budget) -> str | None:
    """Why this interpreter is not held to the budget; None where it is."""
    if platform.python_implementation() != "CPython" or _python() != budget.python:
        here = f"{platform.python_implementation()} {_python()}"
        return f"the budget is one of CPython {budget.python}; this is {here}, whose bytecode differs, so it is held to nothing"
    return None


def read(path: Path = BUDGET) -> Budget:
    """The budget of a file. Raises ValueError for a line that it cannot read."""
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(path.read_text(encoding="utf-8"))
    python = parser["measured with"]["python"]
    libraries = {name: version for name, version in parser["measured with"].items() if name != "python"}
    scenarios = {name: dict(part) for name, part in parser.items() if name not in ("measured with", parser.default_section)}
    figures = {name: {figure: _limits(line) for figure, line in part.items()} for name, part in scenarios.items()}
    return Budget(python, libraries, figures)


def _limits(line: str) -> tuple[float, float]:
    measured, _, most = line.partition(", at most ")
    return float(measured), float(most)


def over(budget: Budget, found: Mapping[str, Found]) -> str:
    """What exceeds the budget, for a reader who wants to know where; ``""`` if nothing does."""
    parts = []
    for name, (figures, table) in found.items():
        limits = budget.figures.get(name, {})
        lines = [_told(name, figure, value, limits.get(figure)) for figure, value in figures.items()]
        told = [line for line in lines if line]
        if told:
            parts.append("\n".join([*told, "", f"Where {name} spends now:", *_rows(table)]))
    if not parts:
        return ""
    here = _versions()
    changed = {name: then for name, then in budget.libraries.items() if here.get(name) != then}
    others = [f"{name} {here.get(name, 'missing')} (then {then})" for name, then in changed.items()]
    end = [f"Not the versions that the budget was measured with: {', '.join(others)}."] if others else []
    renew = f"Is this cost meant? Then say in the commit what it buys, and renew the budget: {RENEW}"
    return "\n\n".join([*parts, *end, renew])


def loose(budget: Budget, found: Mapping[str, Found]) -> list[str]:
    """The figures that have fallen so far that their limit is loose: by more than the headroom."""
    pairs = [(f"{name}: {figure}", value, budget.figures.get(name, {}).get(figure))
             for name, one in found.items() for figure, value in one.figures.items()]  # fmt: skip
    return [name for name, value, limits in pairs if limits and value < limits[0] - (limits[1] - limits[0])]


def _told(name: str, figure: str, value: float, limits: tuple[float, float] | None) -> str:
    if limits is None:
        return f"{name}: {figure}: {value:,.2f} measured, and the budget has no such figure"
    then, most = limits
    if value <= most:
        return ""
    return f"{name}: {figure}: {value:,.2f} measured, {most:,.2f} allowed ({then:,.2f} when the budget was written)"


def _rows(table: Table) -> list[str]:
    width = max([len(place) for place, _, _ in table], default=8)
    head = f"  {'function':{width}}  bytecodes    calls"
    return [head, *(f"  {place:{width}}  {bytecodes:9,.2f}  {calls:7,.2f}" for place, bytecodes, calls in table)]


_HEAD = f"""\
# What an event, a turn and a first call cost in counts, and the most that they may: see tests/benchmarks/budget.py.
# Written by `{RENEW}`, deliberately: its commit says what changed and why.
# A line is: figure = measured, at most. Patch releases differ a little, so {HEADROOM - 1:.0%} more are allowed,
# and {HEADROOM_OF_MEMORY - 1:.0%} more memory.
#
# bulk: {_BATCH} events in a packet. paced: each event in a packet of its own. Both are per event, in the middle of a stream.
# turn: a short answer, as a delta on a reused connection, the history kept, at {_ITEMS} items; what it grows by per further item.
# first call: from the making of a provider to its result, the connection included, imports apart.
#
# bytecodes: of the consumer's thread, those of the libraries and the standard library included.
# python calls: of functions; a generator counts each time it goes on. c calls: those that Python code makes.
# locks: taken. system calls: those of sockets, polls and the like; not what the interpreter needs for itself.
# blocks kept: small objects, the text of the event is one. bytes kept beside the text: mostly its place in a list.
# bytes at the peak: above what is kept; the buffer of a read is most of it. In bulk per event of a packet.
"""


def renewed(found: Mapping[str, Found]) -> Budget:
    """The budget that these figures give."""
    limits = {name: {figure: _limit(figure, value) for figure, value in one.figures.items()} for name, one in found.items()}
    return Budget(_python(), _versions(), limits)


def _limit(figure: str, measured: float) -> tuple[float, float]:
    most = max(0.0, measured) * (HEADROOM_OF_MEMORY if figure.startswith(("blocks", "bytes ")) else HEADROOM)
    return round(measured, 3), math.ceil(most * 1000) / 1000


def write(budget: Budget, path: Path = BUDGET) -> None:
    """Write it, with what its figures mean."""
    versions = [f"{name} = {version}" for name, version in budget.libraries.items()]
    parts = ["\n".join([_HEAD, "[measured with]", f"python = {budget.python}", *versions])]
    for name, limits in budget.figures.items():
        lines = [f"{figure} = {then:.3f}, at most {most:.3f}" for figure, (then, most) in limits.items()]
        parts.append("\n".join([f"[{name}]", *lines]))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and compare; the exit status is 1 where the budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.budget", description="Counts, held to a budget.")
    parser.add_argument("--write", action="store_true", help="renew the budget from what is measured now")
    parser.add_argument("--tables", action="store_true", help="show where each scenario spends")
    options = parser.parse_args(arguments)
    found = {name: one for codec in codecs() for name, one in measure(codec).items()}
    if options.tables:
        for name, (_, table) in found.items():
            print("\n".join([f"{name}, per {name.split(',')[0].split()[-1]}:", *_rows(table), ""]))
    budget = read() if BUDGET.exists() else Budget("", {}, {})
    for name, (figures, _) in found.items():
        for figure, value in figures.items():
            then = budget.figures.get(name, {}).get(figure)
            print(f"{name}: {figure}: {value:,.2f}" + (f" (budget: {then[0]:,.2f}, at most {then[1]:,.2f})" if then else ""))
    if options.write:
        if len(codecs()) < 2:
            print("orjson is not installed: pip install 'pixir-sync[fast]', else its figures would be lost", file=sys.stderr)
            return 2
        write(renewed(found))
        return 0
    if (reason := unheld(budget)) is not None:
        print(reason, file=sys.stderr)
        return 0
    told = over(budget, found)
    if fallen := loose(budget, found):
        print(f"Fallen, so that the budget no longer holds them; renew it with {RENEW}:", *fallen, sep="\n  ", file=sys.stderr)
    print(told, file=sys.stderr)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
