"""The other side of the soak, in a process of its own: two local servers, plain and TLS, and what goes wrong there.

``python -m tests.soak.server --seed 1`` prints where it listens as a line of JSON, serves until its input ends, and prints what
it saw as another.

Rules kept here:

* What goes wrong with one answer is asked for by the turn (`tests.soak.words`); what goes wrong for everybody (cuts, close
  frames, refused upgrades) comes in noisy spells, with calm ones between them. Each noise is told with its time, so that the
  other side knows which errors it explains.
* Sockets are counted as the kernel sees them: one that the client has shut down is none any more, however far behind this
  process is. Each provider names itself in a header of the upgrade.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pixir_sync.local.engine as engine
from pixir_sync.local import Answer, LocalServer, Text, faults
from pixir_sync.local.context import Context
from pixir_sync.local.faults import Fault
from tests.soak.words import FATES, KEY, SENTINEL, digest
from tests.support.tls import authority

if TYPE_CHECKING:
    from pixir_sync.local.front import Front

__all__ = ["CALM", "FRAME_LIMIT", "NAME"]

NAME = "x-soak"
"""The header by which a provider names itself."""
FRAME_LIMIT = 256 * 1024
CALM = 6.0
"""How long a calm spell is, and a noisy one, in seconds."""
_AGE = 11.0  # how old a connection may become
_LOOK = 0.05  # how often the sockets are counted
_CODES = (1000, 1001, 1011, 1012)
_STRAY = ({"type": "codex.rate_limits", "limits": 1}, {"type": "keepalive"}, {"type": "response.news", "delta": "x"})
_STATUSES = (500, 503, 429, 426, 404, 403, 302)

Json = dict[str, Any]

_model_answer = engine.model_answer  # type: ignore[attr-defined]


def _answer(body: Json, context: Context) -> Answer:
    """The local model's answer, with a digest of the context that it has in front of it."""
    answer: Answer = _model_answer(body, context)
    parts = [
        Text("".join(part.deltas) + f" #{digest(context.all_items())}") if isinstance(part, Text) else part
        for part in answer.parts
    ]
    return Answer(*parts, end=answer.end)


class Fates:
    """Puts every fate in place, each for the turns that ask for it, in their first attempts only."""

    def __init__(self, server: LocalServer) -> None:
        self.asked: Counter[str] = Counter()
        self.struck: list[tuple[str, Any]] = []
        self._counted: Json | None = None
        for name, fate in FATES.items():
            placed = server.fault(fate.fault(), when=self._wants(name), required=False)
            placed.__enter__()
            self.struck.append((name, placed))

    def _wants(self, name: str) -> Any:
        def wants(body: Json) -> bool:
            asked = body.get("metadata") or {}
            if "nonce" not in asked:
                return False
            if body is not self._counted:  # the first fate that looks at this request
                self._counted = body
                self.asked[asked["nonce"]] += 1
                if len(self.asked) > 20_000:
                    self.asked.pop(next(iter(self.asked)))
            return bool(asked.get("fate") == name) and self.asked[asked["nonce"]] <= int(asked["times"])

        return wants


class Place:
    """One server, its noise and its books."""

    def __init__(self, name: str, seed: int, *, noisy: bool) -> None:
        context = authority().server_context() if name == "tls" else None
        self.server = LocalServer(
            api_key=KEY, frame_limit=FRAME_LIMIT, max_age=_AGE, ping_interval=1.0, ping_timeout=10.0, ssl_context=context,
            compression=name == "tls",
        )  # fmt: skip
        self.name, self.noise = name, list[tuple[float, float, str]]()
        self.most: Counter[str] = Counter()
        self._names: dict[int, str] = {}
        self._rng = random.Random(f"{seed} noise {name}")
        self._stop = threading.Event()
        self.server.start()
        self.fates = Fates(self.server)
        ways = (self._look, self._make_noise) if noisy else (self._look,)
        self._threads = [threading.Thread(target=way, name=f"soak-{name}") for way in ways]
        for thread in self._threads:
            thread.start()

    def end(self) -> Json:
        """Stop, and tell."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        until = time.monotonic() + 10
        while (left := sum(self._count().values())) and time.monotonic() < until:
            time.sleep(0.05)
        struck = {name: placed.struck for name, placed in self.fates.struck if placed.struck}
        failures = [repr(failure) for failure in self.server.failures]
        self.server.close()
        return {"most": self.most, "noise": self.noise, "struck": struck, "failures": failures, "left": left,
                "connections": self.server.connections}  # fmt: skip

    # Counting.

    def _look(self) -> None:
        while not self._stop.wait(_LOOK):
            for name, number in self._count().items():
                self.most[name] = max(self.most[name], number)
            self.server.requests.clear()

    def _count(self) -> Counter[str]:
        """How many WebSockets each provider has now."""
        found: Counter[str] = Counter()

        async def act(front: Front) -> None:  # on the server's event loop, where the upgrades are recorded, too
            upgrades, known = self.server.upgrades, set(front.numbers.values())
            self._names |= {upgrade.connection: upgrade.headers.get(NAME, "?") for upgrade in upgrades}
            upgrades.clear()
            self._names = {number: name for number, name in self._names.items() if number in known}
            poll, open_now = select.poll(), dict[int, str]()
            for handler, transport in list(front._open.items()):
                name, sock = self._names.get(front.numbers.get(handler, 0)), None
                with suppress(AttributeError):  # over TLS, where it was closed in this moment
                    sock = transport.get_extra_info("socket")
                if name is not None and sock is not None and sock.fileno() >= 0:
                    open_now[sock.fileno()] = name
                    poll.register(sock.fileno(), select.POLLRDHUP)
            for number, _ in poll.poll(0):
                open_now.pop(number, None)  # the client has ended it
            found.update(open_now.values())

        self.server._call(act)
        return found

    # Noise.

    def _make_noise(self) -> None:
        rng, noisy_until = self._rng, 0.0
        while not self._stop.is_set():
            if time.monotonic() >= noisy_until:
                self._stop.wait(CALM)
                noisy_until = time.monotonic() + CALM
            act = rng.choices([self._cut, self._close, self._tell, self._refuse, self._refuse_late, self._stall],
                              [2, 2, 3, 2, 1, 1])[0]  # fmt: skip
            before = time.monotonic()
            what = act()
            if act != self._tell:  # which explains no error
                self.noise.append((before, time.monotonic(), what))
            self._stop.wait(0.2 + rng.random())

    def _cut(self) -> str:
        self.server.cut_connections()
        return "cut"

    def _close(self) -> str:
        self.server.close_connections(self._rng.choice(_CODES), f"{SENTINEL} restart")
        return "close"

    def _tell(self) -> str:
        self.server.send_all(self._rng.choice(_STRAY))
        return "stray event"

    def _refuse(self) -> str:
        status = self._rng.choice(_STATUSES)
        headers = {"retry-after": "0.05"} if status in (429, 503) else {}
        return self._placed(faults.RefuseUpgrade(status, headers=headers), f"upgrade {status}")

    def _refuse_late(self) -> str:
        return self._placed(faults.CloseAfterUpgrade(1008, "no"), "upgrade 1008")

    def _stall(self) -> str:
        return self._placed(faults.StallUpgrade(), "upgrade stalled")

    def _placed(self, fault: Fault, what: str) -> str:
        with self.server.fault(fault, times=self._rng.randint(1, 4), required=False):
            self._stop.wait(0.5)
        return what


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--calm", action="store_true", help="no noise")
    given = parser.parse_args()
    engine.model_answer = _answer  # type: ignore[attr-defined]
    places = [Place(name, given.seed, noisy=not given.calm) for name in ("plain", "tls")]
    where: Json = {place.name: place.server.base_url for place in places}
    print(json.dumps({**where, "ca_file": authority().ca_file()}), flush=True)
    with suppress(KeyboardInterrupt):
        sys.stdin.read()
    print(json.dumps({place.name: place.end() for place in places}), flush=True)


if __name__ == "__main__":
    main()
