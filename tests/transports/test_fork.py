"""Forks: the child has connections of its own, the parent goes on as if nothing had been."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pixir_sync
from pixir_sync import ConnectionLost, Network, Provider, forking
from pixir_sync.forking import PlainSocket, TLSSocket
from pixir_sync.local import LocalServer, faults
from tests.support.children import Child, in_child
from tests.support.events import text_response
from tests.support.fake import provider_for
from tests.support.tls import authority
from tests.support.ws_peer import WebSocketPeer, Wire
from tests.support.ws_wire import HOLD
from tests.transports.http.helpers import in_thread

pytestmark = [pytest.mark.row("B21"), pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

WAYS = ["websocket", "websocket-tls", "http_sse", "http_sse-tls"]


class Place:
    """A local server and a provider for it."""

    def __init__(self, way: str) -> None:
        transport, _, secure = way.partition("-")
        self.transport, self.secure = transport, bool(secure)
        self.server = LocalServer(ssl_context=authority().server_context() if secure else None)
        self.server.start()
        bundle = authority().ca_file() if secure else None
        self.provider = provider_for(
            self.server, transport=transport, network=Network(trust_env=False, ca_bundle=bundle), timeouts=10
        )

    def said(self, text: str, session: str | None = None) -> str:
        return self.provider.complete(text, session=session).text

    def close(self) -> None:
        self.provider.close()
        self.server.close()


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(request.param)
    yield made
    made.close()


def connection_of(place: Place, text: str) -> int:
    """The number of the connection on which this text came."""
    return next(recorded.connection for recorded in place.server.requests if recorded.text == text)


def test_a_fork_in_mid_stream(place: Place) -> None:
    """The parent's stream goes on; in the child the same stream raises, and a new call has a connection of its own."""
    stall = faults.Stall(after=4)
    with place.server.fault(stall, times=1) as placed:
        stream = place.provider.stream("from the parent", session="s")
        seen = [next(stream).type, next(stream).type]
        placed.wait()

        def child() -> tuple[str, Any, str]:
            with pytest.raises(ConnectionLost, match="forked") as caught:
                for _ in stream:
                    pass
            assert stream.metadata["active_transport"] == place.transport
            return caught.value.kind, caught.value.retryable, place.said("from the child", "s")

        assert in_child(child) == ("connection_lost", False, "Heard: from the child (context: 1)")
        stall.release()
        assert stream.result().text == "Heard: from the parent (context: 1)" and len(seen) == 2
    assert connection_of(place, "from the child") != connection_of(place, "from the parent")
    assert place.said("again", "s") == "Heard: again (context: 1)"
    assert connection_of(place, "again") == connection_of(place, "from the parent")
    assert place.provider.stats()["connections"]["opened"] == 1


def test_an_idle_connection_stays_the_parents(place: Place) -> None:
    """Before the child does anything its copy is closed; the parent's session goes on, over a WebSocket with a delta."""
    first = place.provider.complete("one", session="s")
    history = [pixir_sync.user("one"), *first.output_items, pixir_sync.user("two")]
    numbers = our_descriptors()
    assert numbers

    def child() -> tuple[list[int], int, int, str]:
        still_open = [number for number in numbers if is_socket(number)]
        answer = place.provider.complete(history, session="s")
        sent = answer.provider_metadata["input_items_sent"]
        return still_open, place.provider.stats()["connections"]["opened"], sent, answer.text

    assert in_child(child) == ([], 1, 3, "Heard: two (context: 2)")
    again = place.provider.complete(history, session="s")
    assert again.text == "Heard: two (context: 2)" and again.provider_metadata["connection_reused"]
    assert again.provider_metadata["input_items_sent"] == (1 if place.transport == "websocket" else 3)


def our_descriptors() -> list[int]:
    """The numbers of the sockets that the library has open."""
    kinds = (PlainSocket, TLSSocket)
    return [found.fileno() for found in gc.get_objects() if isinstance(found, kinds) and found.fileno() >= 0]


def is_socket(number: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    except OSError:
        return False


def test_what_a_child_does_with_its_copies(place: Place) -> None:
    """Closing, dropping and cancelling in the child end nothing in the parent."""
    stall = faults.Stall(after=4)
    with place.server.fault(stall, times=1) as placed:
        stream = place.provider.stream("whole", session="s")
        next(stream)
        placed.wait()

        def child() -> str:
            nonlocal stream
            stream.cancel()
            stream.close()
            assert place.provider.has_session("s") is False
            place.provider.release("s")
            place.provider.close()
            place.provider.close()
            del stream
            gc.collect()
            return "done"

        assert in_child(child) == "done"
        stall.release()
        assert stream.result().text == "Heard: whole (context: 1)"


def test_twice_in_a_row(place: Place) -> None:
    """A grandchild has nothing of either, and all three go on."""
    place.said("parent", "s")

    def child() -> list[str]:
        own = place.said("child", "s")
        return [own, in_child(lambda: place.said("grandchild", "s")), place.said("child again", "s")]

    assert in_child(child) == [f"Heard: {who} (context: 1)" for who in ("child", "grandchild", "child again")]
    assert place.said("parent again", "s") == "Heard: parent again (context: 1)"
    numbers = [connection_of(place, who) for who in ("parent", "child", "grandchild")]
    assert len(set(numbers)) == 3
    assert connection_of(place, "child again") == numbers[1] and connection_of(place, "parent again") == numbers[0]


def locks_of(thing: object, path: str, found: dict[str, Any], seen: set[int]) -> None:
    """Every lock that a provider's objects have, by where it is."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if type(thing) is type(threading.Lock()):
        found[path] = thing
    elif isinstance(thing, dict):
        for key, value in list(thing.items()):
            locks_of(key, f"{path}.key", found, seen)
            locks_of(value, f"{path}[{key if isinstance(key, str) else type(key).__name__}]", found, seen)
    elif isinstance(thing, list | tuple | set):
        for value in list(thing):
            locks_of(value, f"{path}[]", found, seen)
    elif type(thing).__module__.startswith("pixir_sync"):
        names = [*getattr(thing, "__dict__", {}), *(n for kind in type(thing).__mro__ for n in getattr(kind, "__slots__", ()))]
        for name in names:
            locks_of(getattr(thing, name, None), f"{path}.{name}", found, seen)


def test_any_lock_may_be_held_at_the_fork(place: Place) -> None:
    """Each lock of the provider, its pool and its connections is held by another thread while the child is made."""
    place.said("parent", "s")
    found: dict[str, Any] = {}
    locks_of(place.provider, "provider", found, set())
    assert len(found) >= (8 if place.transport == "websocket" else 3), found
    for path, lock in found.items():
        held, done = threading.Event(), threading.Event()

        def hold(lock: Any = lock, held: threading.Event = held, done: threading.Event = done) -> None:
            with lock:
                held.set()
                assert done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(5)
        try:
            assert in_child(lambda: (place.said("child", "s"), place.provider.stats()["errors"])) == (
                "Heard: child (context: 1)", {}), path  # fmt: skip
        finally:
            done.set()
            thread.join()
    assert place.said("parent", "s") == "Heard: parent (context: 1)"


def test_no_byte_on_an_inherited_socket() -> None:
    """The peer's own record of the parent's connection: the upgrade and the parent's frames, before and after the child."""

    def script(wire: Wire) -> None:
        for number in range(2):
            create = wire.read_create(HOLD)
            wire.send_all(text_response("ok", id=f"resp_{wire.number}_{number}"))
            assert create["type"] == "response.create"
        wire.hold()

    with WebSocketPeer(script) as peer, provider_for(peer, transport="websocket") as provider:
        provider.complete("parent", session="s")
        mine = peer.wait_connections(1)[0]
        before = len(mine.frames)

        def child() -> str:
            provider.drop_connections()
            text = provider.complete("child", session="s").text
            provider.close()
            return text

        assert in_child(child) == "ok"
        assert len(mine.frames) == before and len(peer.connections) == 2
        assert provider.complete("parent", session="s").text == "ok"
        assert len(peer.connections) == 2 and len(mine.frames) == before + 1


def test_an_inherited_tls_socket_touches_no_file_of_the_child(tmp_path: Path) -> None:
    """OpenSSL remembers a number, which is another file's in the child: whoever still has the socket there gets an error."""
    place = Place("websocket-tls")
    stall = faults.Stall(after=4)
    with ExitStack() as stack:
        stack.callback(place.close)
        stack.enter_context(place.server.fault(stall, times=1))
        stream = place.provider.stream("whole", session="s")
        next(stream)
        inherited = [found for found in gc.get_objects() if isinstance(found, TLSSocket) and found.fileno() >= 0]
        assert inherited

        def child() -> tuple[set[int | None], int]:
            path = tmp_path / "file"
            for _ in range(64):
                os.open(path, os.O_RDWR | os.O_CREAT)  # they take the numbers that are free now
            failed = set()
            for sock in inherited:
                for act in (partial(sock.send, b"x"), partial(sock.recv, 1), partial(sock.shutdown, 2)):
                    with pytest.raises(OSError) as caught:
                        act()
                    failed.add(caught.value.errno)
            return failed, path.stat().st_size

        assert in_child(child) == ({errno.EBADF}, 0)
        stall.release()
        assert stream.result().text == "Heard: whole (context: 1)"


def work(number: int) -> str:
    """What a worker does with the provider that it inherited."""
    return "|".join(PROVIDERS[0].complete(f"{number}.{turn}", session=f"s{number % 3}").text for turn in range(3))


PROVIDERS: list[Provider] = []


def test_a_pool_of_processes(place: Place) -> None:
    """The provider was used before the workers were forked; each answer is its worker's own."""
    place.said("before", "s0")
    PROVIDERS[:] = [place.provider]
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as workers:
        answers = list(workers.map(work, range(24), timeout=60))
    assert answers == ["|".join(f"Heard: {number}.{turn} (context: 1)" for turn in range(3)) for number in range(24)]
    assert place.said("after", "s0") == "Heard: after (context: 1)"


def test_children_leave_by_the_front_door(place: Place) -> None:
    """A process that ends in the ordinary way, with all its finalisers, hangs nowhere."""
    place.said("before", "s")
    process = multiprocessing.get_context("fork").Process(target=place.said, args=("child", "s"))
    process.start()
    process.join(20)
    assert process.exitcode == 0


def test_forks_while_threads_stream(place: Place) -> None:
    """Children are made at random moments of eight threads' streams; every answer is right on both sides."""
    stop, wrong = threading.Event(), []
    rounds = [0] * 8

    def stream(number: int) -> None:
        while not stop.is_set():
            text = f"{number}-{rounds[number]}"
            if (said := place.said(text, f"s{number % 4}")) != f"Heard: {text} (context: 1)":
                wrong.append((text, said))
            rounds[number] += 1

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(8)]
    with ExitStack() as stack:
        for thread in threads:
            stack.callback(thread.join)
            thread.start()
        stack.callback(stop.set)
        chance = random.Random(7)
        for number in range(12):
            time.sleep(chance.random() * 0.02)
            children = [Child(lambda who=f"{number}.{c}": place.said(who, "s1")) for c in range(2)]  # type: ignore[misc]
            assert [child.result() for child in children] == [f"Heard: {number}.{c} (context: 1)" for c in range(2)]
    assert not wrong and all(rounds)


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that does not end, because it waits for what another library's hook of this fork holds, keeps no fork."""
    monkeypatch.setattr(forking, "PATIENCE", 0.1)
    begun, go = threading.Event(), threading.Event()

    def imports() -> bool:
        with forking.importing:
            begun.set()
            return go.wait(20)

    held = in_thread(imports)
    assert begun.wait(10)
    assert in_child(takes_it)  # the thread that has it is not there
    go.set()
    assert held.result(10)
    for _ in range(2):  # nobody holds the lock: the next fork takes it, and gives it back
        assert in_child(lambda: "there") == "there"
        assert in_thread(takes_it).result(10)


def takes_it() -> bool:
    """Whether this thread can have the lock of the imports."""
    with forking.importing:
        return True
