"""A refused token is replaced once, for all the threads that it was refused to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pixir_sync import Cancelled, CancelToken, NotAuthenticated, PixirError, Provider, TotalTimeout
from pixir_sync.deadline import Deadline
from pixir_sync.local import LocalServer
from pixir_sync.refresh import Refresher
from tests.support.both import TransportName
from tests.support.children import in_child
from tests.support.fake import provider_for
from tests.transports.http.helpers import in_thread, wait_until

pytestmark = pytest.mark.row("D3")
THREADS = 16


class Login:
    """A credential whose first token is refused; `refresh` waits for ``ready``, and then fails or gets the right one."""

    identity = "account"

    def __init__(self, right: str, ready: Callable[[], bool], error: Exception | None = None) -> None:
        self.token, self.right, self.ready, self.error = "old", right, ready, error
        self.refreshes = 0

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def refresh(self) -> None:
        self.refreshes += 1
        wait_until(self.ready, "the others to be refused")
        if self.error is not None:
            raise self.error
        self.token = self.right


def ends(work: Callable[[int], Any]) -> list[Any]:
    """What came of this work on every thread: a text, or a kind of error."""

    def end(number: int) -> Any:
        try:
            return work(number)
        except PixirError as error:
            return error.kind

    return [job.result(20) for job in [in_thread(lambda n=number: end(n)) for number in range(THREADS)]]  # type: ignore[misc]


def refused(server: LocalServer, transport: str) -> int:
    return len(server.upgrades if transport == "websocket" else server.requests)


def test_sixteen_threads_refresh_once(transport: TransportName) -> None:
    """All were refused with the old token; one refreshes, and all are answered with the new one."""
    with LocalServer() as server:
        login = Login(server.api_key, lambda: refused(server, transport) == THREADS)
        with provider_for(server, credential=login, transport=transport) as provider:
            said = ends(lambda number: provider.complete(f"{number}", session=f"s{number}").text)
            assert said == [f"Heard: {number} (context: 1)" for number in range(THREADS)]
            assert login.refreshes == 1 and provider.stats()["replays"] == {"credential_refreshed": THREADS}


def test_the_rest_of_the_api_shares_it() -> None:
    """Calls of the model and of the catalogue, refused at the same time."""
    with LocalServer() as server:
        login = Login(server.api_key, lambda: len(server.requests) == THREADS)
        with provider_for(server, credential=login, transport="http_sse") as provider:
            said = ends(lambda number: bool(provider.models() if number % 2 else provider.complete("Hi")))
            assert said == [True] * THREADS and login.refreshes == 1


@pytest.mark.parametrize("error", [OSError("no vault"), NotAuthenticated("logged out")])
def test_its_failure_is_shared(transport: TransportName, error: Exception) -> None:
    """Nobody asks again for what was refused a moment ago; each thread has an error of its own."""
    with LocalServer() as server:
        login = Login("never", lambda: refused(server, transport) == THREADS, error)
        with provider_for(server, credential=login, transport=transport) as provider:
            refresher = provider._open().refresher

            def gathered() -> bool:
                return refused(server, transport) == THREADS and len(waiting(refresher)) == THREADS - 1

            login.ready = gathered
            assert ends(lambda number: provider.complete("Hi").text) == ["not_authenticated"] * THREADS
            assert login.refreshes == 1


def waiting(refresher: Refresher) -> list[Any]:
    """Who waits for the refresh that runs."""
    ours = refresher._round
    return list(ours.done._wakers) if ours is not None else []


class Held:
    """A refresh that runs until it is told to go on, on a thread of its own."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun, self.go, self.count = threading.Event(), threading.Event(), 0
        self.error = error
        self.refresher = Refresher(self._renew)
        self.leader = in_thread(lambda: self.refresher.refresh(0, CancelToken(), Deadline(20)))
        assert self.begun.wait(10)

    def _renew(self) -> None:
        self.count += 1
        if self.count == 1:
            self.begun.set()
            assert self.go.wait(10)
            if self.error is not None:
                raise self.error


def test_a_cancel_and_the_limit_end_the_wait_for_it() -> None:
    """Who waits for another thread's refresh is no prisoner of it."""
    held, token = Held(), CancelToken()
    waits = in_thread(lambda: held.refresher.refresh(0, token, Deadline(20)))
    wait_until(lambda: len(waiting(held.refresher)) == 1, "the wait")
    token.cancel()
    with pytest.raises(Cancelled):
        waits.result(5)
    with pytest.raises(TotalTimeout):
        held.refresher.refresh(0, CancelToken(), Deadline(0.05))
    assert not waiting(held.refresher) and held.count == 1
    held.go.set()
    held.leader.result(5)


def test_who_was_refused_with_a_token_replaced_since_does_not_refresh() -> None:
    """A refusal that comes late is of the old token."""
    held = Held()
    held.go.set()
    held.leader.result(5)
    held.refresher.refresh(0, CancelToken(), Deadline(5))
    assert (held.count, held.refresher.count) == (1, 1)
    held.refresher.refresh(1, CancelToken(), Deadline(5))
    assert (held.count, held.refresher.count) == (2, 2)


def test_an_interrupted_refresh_is_taken_over() -> None:
    """Ctrl-C on the thread that refreshes: another of those that wait does it."""
    held = Held(KeyboardInterrupt())
    waits = in_thread(lambda: held.refresher.refresh(0, CancelToken(), Deadline(20)))
    wait_until(lambda: len(waiting(held.refresher)) == 1, "the wait")
    held.go.set()
    waits.result(5)
    with pytest.raises(KeyboardInterrupt):
        held.leader.result(5)
    assert (held.count, held.refresher.count) == (2, 1)


def test_an_interrupt_before_the_refresh_leaves_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the moment between being seen as the one who refreshes and beginning with it: the next one does it."""
    refresher = Refresher(lambda: None)

    def interrupted(own: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(refresher, "_lead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refresher.refresh(0, CancelToken(), Deadline(5))
    assert refresher._round is None
    refresher.refresh(0, CancelToken(), Deadline(5))
    assert refresher.count == 1


@pytest.mark.row("B21")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_wait_for_the_parents_refresh(transport: TransportName) -> None:
    """A fork in the middle of it: the child refreshes by itself."""
    with LocalServer() as server:
        go = threading.Event()
        login = Login(server.api_key, go.is_set)
        with provider_for(server, credential=login, transport=transport) as provider:
            call = in_thread(lambda: provider.complete("parent").text)
            wait_until(lambda: login.refreshes == 1, "the refresh")
            assert in_child(lambda: child(provider, login)) == ("Heard: child (context: 1)", 2)
            go.set()
            assert call.result(10) == "Heard: parent (context: 1)" and login.refreshes == 1


def child(provider: Provider, login: Login) -> tuple[str, int]:
    login.ready = lambda: True
    return provider.complete("child").text, login.refreshes
