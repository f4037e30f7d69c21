"""What arrived at the server, for tests to look at. Its repr shows neither headers nor bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Recorded", "Transport"]

Transport = Literal["http_sse", "websocket", "http"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One HTTP request, one WebSocket upgrade or one WebSocket text frame.

    ``method`` is the HTTP method or ``"FRAME"``; ``headers`` (a frame's are its upgrade's) are looked up without
    regard to case; ``body`` is the decoded JSON, None where there is none or it is not JSON; ``connection`` numbers the
    TCP connection from 1; ``raw`` counts the bytes of the body or frame.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)
    transport: Transport
    connection: int
    raw: int
