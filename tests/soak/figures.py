"""What a soak found, and the report of it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Figures", "Suspicion"]

Json = dict[str, Any]
_MOST = 50  # defects that are kept


@dataclass(frozen=True)
class Suspicion:
    """An error that only a noise of the server explains: where, from when until when (monotonic), of what kind, and the call."""

    place: str
    began: float
    ended: float
    kind: str
    call: str

    def explained(self, noise: list[tuple[float, float, str]]) -> bool:
        """Whether there was a noise while the call ran."""
        return any(began <= self.ended and self.began <= ended for began, ended, _ in noise)


@dataclass
class Figures:
    """What happened. Threads share it; ``defects`` must be empty."""

    seed: int
    command: str
    counts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)  # of `Provider.stats()`, over all providers
    defects: list[str] = field(default_factory=list)
    suspicions: list[Suspicion] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds, MB
    in_use: list[tuple[int, float]] = field(default_factory=list)  # blocks of Python's, MB of the C library's
    slowest_cancel: float = 0.0
    slowest_cancelled: str = ""
    slowest_pulse: float = 0.0
    seconds: float = 0.0
    most_threads: int = 0
    most_descriptors: int = 0
    server: Json = field(default_factory=dict)
    raw: list[Any] = field(default_factory=list)
    last_stats: Json = field(default_factory=dict)
    # Guards the counters, which add what they read. Never taken in a child process.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def defect(self, what: str) -> None:
        """Something that must not be. Takes no lock."""
        if len(self.defects) < _MOST:
            self.defects.append(what)

    def line(self) -> str:
        """How far it has come."""
        at, mb = self.memory[-1]
        calls = sum(self.ends.values())
        return f"{at:.0f} s: {calls} streams, {self.counts['children']} children, {mb:.0f} MB, {len(self.defects)} defects"

    def report(self) -> str:
        """Markdown."""
        calls, seconds = sum(self.ends.values()), max(1.0, self.seconds)
        lines = [
            f"# Soak: seed {self.seed}, {self.seconds:.0f} s, {len(self.defects) or 'no'} defects",
            "", f"`{self.command}`", "",
            f"- {calls:,} streams ({calls / seconds:.0f} a second), {self.counts['turns']:,} turns of conversations, "
            f"{self.counts['deltas']:,} of them by delta; {self.counts['bytes checked']:,} characters checked",
            f"- slowest cancel {self.slowest_cancel * 1000:.0f} ms (the slowest pulse of the process by itself: "
            f"{self.slowest_pulse * 1000:.0f} ms)",
            f"- {self.counts['children']} children by fork, {self.counts['streams of children']} streams in them",
            f"- most threads {self.most_threads}, most descriptors {self.most_descriptors}",
            "- memory of the process: " + ", ".join(f"{mb:.0f} MB at {at:.0f} s" for at, mb in self._points()),
            "- memory in use, before and after: " + ", ".join(f"{blocks:,} blocks and {mb:.1f} MB" for blocks, mb in self.in_use),
            "", "| end | streams |", "| --- | ---: |",
            *(f"| {kind} | {number:,} |" for kind, number in self.ends.most_common()),
            "", "What the consumers did: " + _listed(self.acts), "",
            "All providers' stats() together: " + _listed(self.totals), "",
            f"The last stats() of a provider that had both transports: `{self.last_stats}`", "",
            *self._of_servers(),
        ]  # fmt: skip
        for raw in self.raw:
            lines += ["", "Raw peer: " + str(raw).replace("\n", "; ")]
        if self.defects:
            lines += ["", "## Defects", "", *(f"- {defect}" for defect in self.defects), "", f"Again: `{self.command}`"]
        return "\n".join(lines)

    def _points(self) -> list[tuple[float, float]]:
        step = max(1, len(self.memory) // 8)
        return [*self.memory[:-1:step], *self.memory[-1:]]

    def _of_servers(self) -> list[str]:
        lines = []
        for name, told in self.server.items():
            noise = Counter(what for _, _, what in told["noise"])
            lines.append(
                f"Server {name}: {told['connections']:,} connections, most sockets of one provider "
                f"{max(told['most'].values(), default=0)}; fates: {_listed(told['struck'])}; noise: {_listed(noise)}"
            )
        return lines


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(numbers.items()))
