"""Faults: what a server, a gateway or a network does that it should not. Values, which compose.

::

    with LocalServer() as server, server.fault(faults.Drop(after=3)) as placed:
        ...                     # each answer is cut off after three events
    assert placed.struck == 1

    LocalServer(faults=[faults.RefuseUpgrade(426), faults.Ending(output="empty")])

Rules kept here:

* A fault changes what is sent and knows nothing of sockets: it looks at an upgrade, or it is given the steps of an answer and
  gives others. Those placed first are nearest to the model.
* ``after`` counts events; the fault acts before the next one is even made.
* A fault asks before it acts, and that counts as a strike: what was counted has happened.
"""

from __future__ import annotations

from pixir_sync.local.faults.base import Exchange, Fault, Steps, Strike
from pixir_sync.local.faults.breaks import BinaryFrame, Delays, Drop, Garbage, SlowBytes, Stall
from pixir_sync.local.faults.refusals import Refuse
from pixir_sync.local.faults.shapes import DoneMarker, Ending, Extra, WithoutIndexes, WithoutSetUp
from pixir_sync.local.faults.upgrades import AgeLimit, CloseAfterUpgrade, RefuseUpgrade, StallUpgrade

__all__ = [
    "AgeLimit", "BinaryFrame", "CloseAfterUpgrade", "Delays", "DoneMarker", "Drop", "Ending", "Exchange", "Extra", "Fault",
    "Garbage", "Refuse", "RefuseUpgrade", "SlowBytes", "Stall", "StallUpgrade", "Steps", "Strike", "WithoutIndexes",
    "WithoutSetUp",
]  # fmt: skip
