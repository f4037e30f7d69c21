"""The embedded local server: a Responses API on loopback with a deterministic model, for tests and demonstrations.

::

    from pixir_sync.local import LocalServer

    with LocalServer() as server:
        provider = Provider(base_url=server.base_url, api_key=server.api_key, model=server.model)

Importing this package imports no aiohttp; starting a server does (extra ``local``). It imports nothing of pixir_sync
but the
JSON codec, so that client and server cannot share a mistake.
"""

from __future__ import annotations

from pixir_sync.local.recording import Recorded
from pixir_sync.local.scenario import Close, HttpError, Pause, Scenario, Step
from pixir_sync.local.server import LocalServer, serve

__all__ = ["Close", "HttpError", "LocalServer", "Pause", "Recorded", "Scenario", "Step", "serve"]
