"""What an event costs, against the official SDK: ``python -m tests.benchmarks.streaming``; needs the extras fast and test.

Rules kept here:

* Both clients stream the same answers from the same peer, for the same time and in turn: A B A B. Each run is a fresh process.
* The official SDK has a virtual environment of its own, made once from the package index with the Python that runs this.
* The figures are medians of the rounds. A ratio is one of medians, over the same protocol, plain to plain and TLS to TLS.
* It fails where the provider over WebSocket, with orjson, does not reach `TARGET`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks.answers import OTHER_EVENTS
from tests.benchmarks.peer import DELTAS, PACED_DELTAS, Peer

__all__ = ["OFFICIAL", "TARGET", "Case", "Sample", "bulk_table", "main", "missed", "paced_table"]

OFFICIAL = "3.51.0"
TARGET = 15.0
"""How many times the official SDK's events per CPU second are asked for over WebSocket."""

ROOT = Path(__file__).parents[2]
_CLIENTS = Path(__file__).with_name("clients.py")
_DEADLINE = 300.0


class Case(NamedTuple):
    """One client in one setting. ``codec`` is the JSON library of the provider, ``""`` for the official SDK."""

    client: str
    protocol: str
    secure: bool
    codec: str = ""

    @property
    def official(self) -> Case:
        """What it is compared with."""
        return Case("official", self.protocol, self.secure)

    @property
    def name(self) -> str:
        return f"pixir_sync, {self.codec}" if self.codec else f"official SDK {OFFICIAL}"

    @property
    def way(self) -> str:
        return f"{'WebSocket' if self.protocol == 'websocket' else 'SSE'}, {'TLS' if self.secure else 'plain'}"


class Sample(NamedTuple):
    """What one run of a client used, in seconds; p50 and p99 (delays) only where events were paced."""

    events: int
    cpu: float
    wall: float
    p50: float = 0.0
    p99: float = 0.0


Samples = dict[Case, list[Sample]]


def cases(protocols: Sequence[str], codecs: Sequence[str]) -> Iterator[Case]:
    """All cases, so ordered that what is compared runs side by side."""
    for secure in (False, True):
        for protocol in protocols:
            yield Case("official", protocol, secure)
            for codec in codecs:
                yield Case("pixir", protocol, secure, codec)


def official_python(folder: Path) -> Path:
    """The interpreter of the official SDK's environment, which is made where it is missing."""
    python = folder / "bin" / "python"
    probe = "from importlib.metadata import version as v; import websockets; print(v('openai'))"
    if python.exists():
        done = subprocess.run([str(python), "-c", probe], capture_output=True, text=True, timeout=_DEADLINE)
        if done.stdout.strip() == OFFICIAL:
            return python
    print(f"making {folder} with openai[realtime]=={OFFICIAL}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"openai[realtime]=={OFFICIAL}"]
    subprocess.run(command, check=True, timeout=_DEADLINE, stdout=sys.stderr)
    return python


def environ(authority: str) -> dict[str, str]:
    """The environment of a client: the peer's authority is trusted, no proxy stands between."""
    dropped = ("PYTHONPATH", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.lower().endswith("_proxy")}
    return {**kept, "SSL_CERT_FILE": authority}


def run(case: Case, peer: Peer, official: Path, *options: str) -> dict[str, Any]:
    """Run a client once. Raises CalledProcessError; what the client said of it has been shown."""
    python = official if case.client == "official" else Path(sys.executable)
    url = peer.tls if case.secure else peer.plain
    command = [str(python), "-P", str(_CLIENTS), case.client, case.protocol, url, *options]
    if case.codec == "json":
        command.append("--no-orjson")
    env = environ(peer.authority) | ({"PYTHONPATH": str(ROOT)} if case.client == "pixir" else {})
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=_DEADLINE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bulk(case: Case, peer: Peer, official: Path, seconds: float) -> Sample:
    """One run with bulk answers, all of which must have arrived."""
    found = run(case, peer, official, f"--seconds={seconds}")
    expected = (found["answers"] * (DELTAS + OTHER_EVENTS), found["answers"] * peer.characters)
    assert (found["events"], found["characters"]) == expected, f"{case.name}: {found}, not {expected}"
    return Sample(found["events"], found["cpu"], found["wall"])


def paced(case: Case, peer: Peer, official: Path) -> Sample:
    """One run with a paced answer."""
    found = run(case, peer, official, "--paced")
    assert found["events"] == PACED_DELTAS, f"{case.name}: {found}"
    return Sample(found["events"], found["cpu"], found["wall"], found["p50"], found["p99"])


def _cpu(samples: Iterable[Sample]) -> float:
    return median(sample.cpu / sample.events for sample in samples)


def _wall(samples: Iterable[Sample]) -> float:
    return median(sample.wall / sample.events for sample in samples)


def ratio(case: Case, found: Samples) -> float:
    """How many times the official SDK's events per CPU second."""
    return _cpu(found[case.official]) / _cpu(found[case])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bulk_table(found: Samples) -> str:
    """The figures of the bulk answers, in Markdown."""
    rows = []
    for case, samples in found.items():
        cpu, wall = _cpu(samples), _wall(samples)
        rounds = [_cpu([theirs]) / _cpu([ours]) for theirs, ours in zip(found[case.official], samples, strict=True)]
        times = f"{ratio(case, found):.1f} ({min(rounds):.1f} to {max(rounds):.1f})" if case.codec else "1"
        faster = f"{_wall(found[case.official]) / wall:.1f}"
        figures = [f"{cpu * 1e6:.2f}", f"{1 / cpu:,.0f}", times, f"{1 / wall:,.0f}", faster if case.codec else "1"]
        rows.append([case.way, case.name, *figures])
    head = ["way", "client", "CPU µs per event", "events per CPU second", "times the official", "events per second", "times"]
    return _table(head, rows)


def paced_table(found: Samples) -> str:
    """The figures of the paced answers, in Markdown."""
    rows = []
    for case, samples in found.items():
        delays = [f"{median(values) * 1e6:.0f}" for values in ([s.p50 for s in samples], [s.p99 for s in samples])]
        times = f"{ratio(case, found):.1f}" if case.codec else "1"
        rows.append([case.way, case.name, f"{_cpu(samples) * 1e6:.1f}", times, *delays])
    return _table(["way", "client", "CPU µs per event", "times less", "delay p50 in µs", "delay p99 in µs"], rows)


def missed(found: Samples) -> list[str]:
    """What falls short of `TARGET`; only the provider over WebSocket with orjson is held to it."""
    held = [case for case in found if case.codec == "orjson" and case.protocol == "websocket"]
    short = [(case, ratio(case, found)) for case in held if ratio(case, found) < TARGET]
    return [f"{case.way}: {times:.1f} times the official SDK, not {TARGET:.0f}" for case, times in short]


def _options() -> argparse.Namespace:
    version = "".join(platform.python_version_tuple()[:2])
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streaming", description="Streaming, side by side.")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long a client reads answers in a round (default: 1.5)")
    parser.add_argument("--protocols", nargs="+", choices=("websocket", "sse"), default=["websocket", "sse"])
    parser.add_argument("--no-orjson", action="store_true", help="only the variant without orjson; nothing is held to the target")
    parser.add_argument("--paced", action="store_true", help="also one event per packet, every half millisecond (reported only)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".tox" / f"openai-{OFFICIAL}-py{version}",
                        help="the official SDK's environment, made where it is missing")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Measure, print the tables; the exit status is 1 where the target is missed, 2 where orjson is."""
    options = _options()
    codecs = ["json"] if options.no_orjson else ["orjson", "json"]
    if "orjson" in codecs and importlib.util.find_spec("orjson") is None:
        print("orjson is not installed: pip install 'pixir-sync[fast]', or measure with --no-orjson", file=sys.stderr)
        return 2
    official = official_python(options.venv)
    todo = list(cases(options.protocols, codecs))
    in_bulk: Samples = {case: [] for case in todo}
    one_by_one: Samples = {case: [] for case in todo}
    with Peer() as peer:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for case in todo:
                in_bulk[case].append(bulk(case, peer, official, options.seconds))
                if options.paced:
                    one_by_one[case].append(paced(case, peer, official))
    machine = f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores"
    print(f"{machine}, medians of {options.rounds} rounds\n")
    print(f"Bulk: {DELTAS:,} deltas and a completed event of 340 KB\n\n{bulk_table(in_bulk)}")
    if options.paced:
        print(f"\nPaced: one event per packet, every half millisecond\n\n{paced_table(one_by_one)}")
    short = missed(in_bulk)
    print("", *short, sep="\n", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
