"""What the pool tells about itself: in the error of a call that got no connection, and in ``stats()``. No name of a session."""

from __future__ import annotations

import hashlib
import os
from itertools import islice
from typing import Any

from pixir_sync.transports.ws.pool_state import Lease, Ledger

__all__ = ["facts"]

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
