"""What the front (on its event loop) and the owner of the server (on any thread) both see. Knows no aiohttp."""

from __future__ import annotations

from dataclasses import dataclass, field

from pixir_sync.local.engine import Engine
from pixir_sync.local.faults.placing import Board
from pixir_sync.local.recording import Requests
from pixir_sync.local.scenario import Scenario

__all__ = ["Settings", "Shared"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is told once. See `LocalServer`, whose options these are."""

    api_key: str
    model: str
    frame_limit: int
    max_age: float | None
    ping_interval: float | None
    ping_timeout: float
    compression: bool
    lanes: bool


@dataclass(slots=True)
class Shared:
    """The engine, the settings, and records. The front only appends to the lists; the owner may read and clear them any time."""

    engine: Engine
    settings: Settings
    faults: Board
    requests: Requests
    upgrades: Requests
    scenario: Scenario | None = None
    connections: int = 0
    failures: list[Exception] = field(default_factory=list)
