"""Forks without a tracer: coverage's has a lock, and a child whose parent's other threads held it would wait for ever.

A plugin of pytest. The parent is traced again when the child is there; the child, of which coverage keeps nothing, is not.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

_forking = threading.local()


def _before() -> None:
    _forking.tracer = sys.gettrace()
    sys.settrace(None)


def _in_the_parent() -> None:
    tracer: Any = _forking.tracer
    sys.settrace(tracer)


os.register_at_fork(before=_before, after_in_parent=_in_the_parent)
