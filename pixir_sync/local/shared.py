"""What the front (on its event loop) and the owner of the server (on any thread) both see. Knows no aiohttp."""

from __future__ import annotations

from dataclasses import dataclass, field

from pixir_sync.local.engine import Engine
from pixir_sync.local.recording import Recorded
from pixir_sync.local.scenario import Scenario

__all__ = ["Shared"]


@dataclass(slots=True)
class Shared:
    """Settings and records. The front only appends to the lists; the owner may read and clear them at any time."""

    engine: Engine
    api_key: str
    model: str
    frame_limit: int
    scenario: Scenario | None = None
    connections: int = 0
    requests: list[Recorded] = field(default_factory=list)
    upgrades: list[Recorded] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
