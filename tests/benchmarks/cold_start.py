"""From the start of Python to the first event, against the official SDK; the import alone and the bare interpreter beside it.

Rules kept here:

* Every figure is a fresh ``python -c``: wall time from just before the process is made to the first event in its loop, on the one
  monotonic clock of the machine, and the processor time of the process up to there, the interpreter's own start included.
* The interpreters start without ``site``: what an environment's .pth files load (coverage, editable installs) is no SDK's own.
* Bytecode is kept, as it is of an installed package; one run that is not counted writes it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from tests.benchmarks.process import ROOT, Case, cases, environ, interleaved, interpreter
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import ShortPeer

__all__ = ["TARGET", "Start", "compare", "measured", "missed", "report"]

TARGET = 8.0
"""How many times our wall time to the first event the official SDK's is to be."""

_DEADLINE = 60.0
_ROUNDS_OF_ONE = 3  # a start takes little time: as many of them in each round
_FOLDER = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
_TELL = "import time\nprint(time.monotonic_ns(), time.process_time_ns(), flush=True)\n"
_OURS = """\
from pixir_sync import Provider
with Provider(api_key="sk-none", base_url={url!r}, model="short", transport={transport!r}) as provider:
    for event in provider.stream("Hi"):
        break
    {tell}
"""
_IMPORT = {"pixir": "from pixir_sync import Provider\n", "official": "from openai import OpenAI\n"}
_OFFICIAL = {
    "WebSocket": """\
from openai import OpenAI
with OpenAI(api_key="sk-none", base_url={url!r}) as client, client.responses.connect() as connection:
    connection.response.create(model="short", input="Hi")
    for event in connection:
        break
    {tell}
""",
    "SSE": """\
from openai import OpenAI
with OpenAI(api_key="sk-none", base_url={url!r}) as client:
    for event in client.responses.create(model="short", input="Hi", stream=True):
        break
    {tell}
""",
}
_STAGES = ("bare Python", "import", "WebSocket", "SSE")
_TRANSPORTS = {"WebSocket": "websocket", "SSE": "http_sse"}


class Start(NamedTuple):
    """One start, in seconds."""

    wall: float
    cpu: float


Found = Mapping[Case, Sequence[Start]]


def compare(setting: Setting) -> Section:
    """Measure all the starts, in turn."""
    rounds = 1 if setting.quick else setting.rounds * _ROUNDS_OF_ONE
    with ShortPeer() as peer, tempfile.TemporaryDirectory() as cache:
        todo = list(cases(_STAGES, setting.codecs))
        for case in todo:
            measured(case, setting, peer, cache)  # writes the bytecode
        found = interleaved("cold start", todo, rounds, lambda case: measured(case, setting, peer, cache))
    return report(found, rounds)


def code(case: Case, url: str) -> str:
    """The program of a case."""
    tell = _TELL.replace("\n", "; ").removesuffix("; ")
    if case.does == "bare Python":
        return _TELL
    hidden = "import sys\nsys.modules['orjson'] = None\n" if case.codec == "json" else ""
    if case.does == "import":
        return hidden + _IMPORT[case.client] + _TELL
    if case.codec:
        return hidden + _OURS.format(url=url, transport=_TRANSPORTS[case.does], tell=tell)
    return _OFFICIAL[case.does].format(url=url, tell=tell)


def measured(case: Case, setting: Setting, peer: ShortPeer, cache: str) -> Start:
    """One start."""
    python = interpreter(case, setting)
    path = [str(ROOT), _packages(python)] if case.codec else [_packages(python)]
    more = {"PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": os.pathsep.join(path)}
    command = [python, "-S", "-P", "-c", code(case, peer.plain)]
    env = environ(peer.authority) | more
    began = time.monotonic_ns()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=_DEADLINE)
    there, cpu = map(int, done.stdout.split())
    return Start((there - began) / 1e9, cpu / 1e9)


@lru_cache
def _packages(python: str) -> str:
    """Where an environment has its packages."""
    command = [python, "-c", _FOLDER]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=_DEADLINE).stdout.strip()


def _wall(starts: Sequence[Start]) -> float:
    return median(start.wall for start in starts)


def _cpu(starts: Sequence[Start]) -> float:
    return median(start.cpu for start in starts)


def report(found: Found, rounds: int) -> Section:
    """The section: one table and a chart."""
    rows = []
    series: dict[str, list[tuple[float | str, float]]] = {}
    for case, of in found.items():
        wall, cpu = (f"{figure(of) * 1e3:,.0f}" for figure in (_wall, _cpu))
        faster, less = (f"{_times(figure, case, found):.1f}" if case.codec else "1" for figure in (_wall, _cpu))
        stage, asked = (f"first event, {case.does}", f"{TARGET:.0f}") if case.does in _TRANSPORTS else (case.does, "")
        rows.append([stage, case.name, wall, faster, asked if case.codec else "", cpu, less])
        series.setdefault(case.name, []).append((case.does, _wall(of) * 1e3))
    head = ["from the start of Python to", "client", "wall ms", "times faster", "target", "CPU ms", "times less"]
    text = f"The median of {rounds} starts of each:\n\n{table(head, rows)}"
    chart = Chart("cold_start", "From the start of Python", "to", "ms", "bars", series)
    return Section("Cold start", text, [chart], missed(found))


def _times(figure: Callable[[Sequence[Start]], float], case: Case, found: Found) -> float:
    return figure(found[case.official]) / figure(found[case])


def missed(found: Found) -> list[str]:
    """What falls short of `TARGET`, in wall time to the first event, over each protocol."""
    held = {case: _times(_wall, case, found) for case in found if case.does in _TRANSPORTS and case.codec}
    words = "times faster than the official SDK, not"
    return [
        f"cold start over {case.does}, {case.name}: {times:.1f} {words} {TARGET:.0f}"
        for case, times in held.items()
        if times < TARGET
    ]
