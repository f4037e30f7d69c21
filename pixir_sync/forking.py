"""What a child process does first: it lets go of everything that it has from its parent and must not use.

And what a fork waits for: imports at first use, which a child could never finish.

Rules kept here:

* One handler for the whole process, over weak references; whoever wants to know of a fork is watched from its making on.
* A socket of the parent is closed in the child without a byte and without a shutdown: the connection is the parent's, and goes
  on. Whatever still refers to it finds a closed file, over TLS too, where the library remembers the number.
* Locks are made anew, because a thread that held one does not exist in the child.
* The interpreter's lock of a module that is being imported cannot be made anew: a child would wait for it for ever. So what is
  imported at its first use is imported under `importing`, and a fork takes that lock first. It gives up after `PATIENCE`: who
  imports may itself wait for something that another library's hook of the same fork holds.
* The registry needs no lock: its single operations are atomic. What is in it is known by its identity, and hashed by that.
"""

from __future__ import annotations

import contextlib
import logging  # noqa: F401  # its hook takes the lock that imports take for their loggers: of two hooks the later one comes first
import os
import socket
import ssl
import threading
import weakref
from typing import Any, Protocol, Self

__all__ = ["PlainSocket", "TLSSocket", "importing", "watch"]

# Held by a thread that imports something at its first use, and by one that forks. Reentrant: an import may fork.
importing = threading.RLock()
PATIENCE = 10.0
"""The longest that a fork waits for an import, in seconds."""
_fork = threading.local()


class Renewed(Protocol):
    """What is told of a fork, in the child."""

    def after_fork(self) -> None: ...


_watched: set[weakref.ref[Any]] = set()
_forget = _watched.discard  # one for all of them: a closure of each thing's own takes 300 bytes more


def watch(thing: Renewed) -> None:
    """Call ``thing.after_fork()`` in every child, before anything else runs there, as long as the thing exists."""
    _watched.add(weakref.ref(thing, _forget))


def _before() -> None:
    _fork.waited = importing.acquire(timeout=PATIENCE)


def _after() -> None:
    if _fork.waited:
        importing.release()


def _renew() -> None:
    """The lock in a child: given back, or, where the fork had not got it, taken from the thread that is not here."""
    if _fork.waited:
        importing.release()
    else:
        importing._at_fork_reinit()  # type: ignore[attr-defined]


def _in_the_child() -> None:
    _renew()
    things = [reference() for reference in list(_watched)]  # alive until each is told: none is closed by being dropped
    for thing in things:
        if thing is not None:
            thing.after_fork()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_the_child)


class _Inherited:
    """A socket that a child closes. It is watched before anybody can have it, however the library makes it (ssl: not by init)."""

    __slots__ = ()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        watch(made)  # type: ignore[arg-type]
        return made


class PlainSocket(_Inherited, socket.socket):
    """A TCP socket."""

    __slots__ = ()

    def after_fork(self) -> None:
        with contextlib.suppress(OSError):  # it was closed at that moment
            os.close(self.detach())


class TLSSocket(_Inherited, ssl.SSLSocket):
    """A TLS socket."""

    def after_fork(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.detach())
        self._sslobj = None  # it remembers the number, which will soon be another file's
