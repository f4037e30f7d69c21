"""What can be told of the pool's books: for an error or ``stats()``, with no name of a session; and whose time is over."""

from __future__ import annotations

import hashlib
import os
from itertools import islice
from math import inf
from typing import Any

from pixir_sync.transports.ws.pool_state import Idle, Lease, Ledger

__all__ = ["facts", "overdue"]

_SHOWN = 64  # the most holders that are listed
_SALT = os.urandom(16)  # makes the digests of sessions of no use outside of this process


def facts(ledger: Ledger) -> dict[str, Any]:
    """Who holds what for how many seconds, the longest first, as plain JSON; sessions by a digest. Under the pool's lock."""
    leased, idle, now = len(ledger.leased), len(ledger.idle), ledger.now()
    return {
        "size": leased + idle,
        "max_size": ledger.options.max_size,
        "idle": idle,
        "leased": leased,
        "waiting": len(ledger.waiting),
        "holders": [_described(lease, now) for lease in islice(ledger.leased, _SHOWN)],
    }


def _described(lease: Lease, now: float) -> dict[str, Any]:
    name = ascii((lease.key.scope, lease.session)).encode()
    return {
        "session": None if lease.session is None else hashlib.blake2b(name, key=_SALT, digest_size=6).hexdigest(),
        "state": "opening" if lease.connection is None else "leased",
        "thread": lease.thread,
        "seconds": round(now - lease.since, 3),
    }


def overdue(ledger: Ledger) -> list[Idle]:
    """The idle connections that are no longer good, as `Ledger.fault` says it of one, and that nobody thinks of taking.

    In one pass, under the pool's lock: of a thousand, each takes half of what asking one by one does.
    """
    now, options = ledger.now(), ledger.options
    born = now - (inf if options.max_lifetime is None else options.max_lifetime)
    since = now - (inf if options.max_idle is None else options.max_idle)
    return [
        idle for idle in ledger.idle
        if (idle.since <= since or idle.connection.opened_at <= born or not idle.connection.alive) and not idle.claimed
    ]  # fmt: skip
