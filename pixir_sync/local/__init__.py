"""The embedded local server: a Responses API on loopback with a deterministic model, for tests and demonstrations.

::

    from pixir_sync.local import LocalServer

    with LocalServer() as server:
        provider = Provider(base_url=server.base_url, api_key=server.api_key, model=server.model)

Importing this package imports no aiohttp; starting a server does (extra ``local``). It imports nothing of pixir_sync
but the JSON codec, so that client and server cannot share a mistake.
"""

from __future__ import annotations

from pixir_sync.local import faults
from pixir_sync.local.answers import (
    Answer,
    CustomCall,
    Failed,
    FunctionCall,
    HostedCall,
    Incomplete,
    Reasoning,
    Refusal,
    Text,
)
from pixir_sync.local.faults.placing import Placed
from pixir_sync.local.recording import Recorded, Requests
from pixir_sync.local.scenario import Scenario, Script
from pixir_sync.local.server import LocalServer, serve
from pixir_sync.local.steps import Binary, Close, Delay, Finish, Head, HttpError, NotJson, Pause, Step, Together

__all__ = [
    "Answer", "Binary", "Close", "CustomCall", "Delay", "Failed", "Finish", "FunctionCall", "Head", "HostedCall", "HttpError",
    "Incomplete", "LocalServer", "NotJson", "Pause", "Placed", "Reasoning", "Recorded", "Refusal", "Requests", "Scenario",
    "Script", "Step", "Text", "Together", "faults", "serve",
]  # fmt: skip
