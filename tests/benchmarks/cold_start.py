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
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from tests.benchmarks.fresh import ROOT, Client, clients, environ
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import ShortPeer

__all__ = ["TARGET", "Case", "Start", "compare", "missed", "report"]

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


class Case(NamedTuple):
    """A client, and how far it goes: one of the stages."""

    client: Client
    stage: str

    @property
    def official(self) -> Case:
        """What it is compared with."""
        return Case(Client("official"), self.stage)


class Start(NamedTuple):
    """One start, in seconds."""

    wall: float
    cpu: float


Found = Mapping[Case, Sequence[Start]]


def compare(setting: Setting) -> Section:
    """Measure all the starts, in turn."""
    rounds = 1 if setting.quick else setting.rounds * _ROUNDS_OF_ONE
    cases = list(_cases(setting))
    found: dict[Case, list[Start]] = {case: [] for case in cases}
    with ShortPeer() as peer, tempfile.TemporaryDirectory() as cache:
        for number in range(rounds + 1):
            for case in cases:
                started = _started(case, setting, peer, cache)
                if number:  # the first one wrote the bytecode
                    found[case].append(started)
    return report(found, rounds)


def _cases(setting: Setting) -> Iterator[Case]:
    for stage in _STAGES:
        for client in clients(setting):
            yield Case(client, stage)


def code(case: Case, url: str) -> str:
    """The program of a case."""
    tell = _TELL.replace("\n", "; ").removesuffix("; ")
    if case.stage == "bare Python":
        return _TELL
    hidden = "import sys\nsys.modules['orjson'] = None\n" if case.client.codec == "json" else ""
    if case.stage == "import":
        return hidden + _IMPORT[case.client.sdk] + _TELL
    if case.client.codec:
        return hidden + _OURS.format(url=url, transport=_TRANSPORTS[case.stage], tell=tell)
    return _OFFICIAL[case.stage].format(url=url, tell=tell)


def _started(case: Case, setting: Setting, peer: ShortPeer, cache: str) -> Start:
    python = str(setting.official if case.client.sdk == "official" else sys.executable)
    path = [str(ROOT), _packages(python)] if case.client.codec else [_packages(python)]
    more = {"PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": os.pathsep.join(path)}
    command = [python, "-S", "-P", "-c", code(case, peer.plain)]
    env = environ(peer.authority, more)
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
    for case, starts in found.items():
        other = found.get(case.official)
        times = ["—" if other is None else "1" if other is starts else f"{of(other) / of(starts):.1f}" for of in (_wall, _cpu)]
        wall, cpu = (f"{of(starts) * 1e3:.0f}" for of in (_wall, _cpu))
        stage = case.stage if case.stage not in _TRANSPORTS else f"first event, {case.stage}"
        rows.append([stage, case.client.name, wall, times[0], cpu, times[1]])
    head = ["from the start of Python to", "client", "wall ms", "times less", "CPU ms", "times less"]
    text = f"""\
Each start is a fresh `python -c` that imports the SDK, makes a client and streams an answer from a peer on loopback, up to the
first event. The interpreter's own start is in it, without `site`. Medians of {rounds} starts in turn.

{table(head, rows)}"""
    series = {
        client.name: [(stage, _wall(found[Case(client, stage)]) * 1e3) for stage in _STAGES]
        for client in dict.fromkeys(case.client for case in found)
    }
    chart = Chart("cold_start", "From the start of Python", "to", "ms", "bars", series)
    return Section("Cold start", text, [chart], missed(found))


def missed(found: Found) -> list[str]:
    """What falls short of `TARGET`, in wall time, over each protocol."""
    short = []
    for case, starts in found.items():
        other = found.get(case.official)
        if case.stage in _TRANSPORTS and case.client.codec and other and (times := _wall(other) / _wall(starts)) < TARGET:
            short.append(
                f"cold start over {case.stage}, {case.client.name}: {times:.1f} times faster than the official SDK, "
                f"not {TARGET:.0f}"
            )
    return short


if __name__ == "__main__":
    from tests.benchmarks.alone import main

    main(compare)
