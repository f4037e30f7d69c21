"""A program under gevent: what is patched works (B22)."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pixir_sync.local import LocalServer, faults
from tests.support.events import text_response
from tests.support.tls import authority
from tests.support.ws_peer import WebSocketPeer, Wire

ROOT = Path(__file__).parents[1]
STREAMS = 50  # as in tests.support.green, which must not be imported here: it patches its process


@pytest.mark.row("B22")
@pytest.mark.parametrize("way", ["websocket", "websocket-tls", "http_sse", "http_sse-tls"])
def test_a_program_under_gevent(way: str) -> None:
    """Fifty streams over eight connections, cancels, waits, `close`, pings while idle and busy, a peer that falls silent."""
    transport, _, secure = way.partition("-")
    context, bundle = (authority().server_context(), [authority().ca_file()]) if secure else (None, [])
    with LocalServer(ssl_context=context, ping_interval=0.3, ping_timeout=1.0) as server, silent(way) as peer:
        with server.fault(faults.Stall(after=4), when=lambda body: "stall" in str(body["input"])):
            command = [sys.executable, "-m", "tests.support.green", server.base_url, peer.base_url, transport, *bundle]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=58)
            assert done.returncode == 0 and done.stderr == "", done.stderr
    found = json.loads(done.stdout)
    assert found["patched"]
    assert found["said"] == [[f"Heard: {n}.{turn} (context: 1)" for turn in range(2)] for n in range(STREAMS)]
    assert found["cancelled_after"] < 1
    assert found["kept"] == ["Heard: after (context: 2)", True, "Heard: slow (context: 1)"]
    assert found["threads"].count("pixir-keepalive") == (1 if transport == "websocket" else 0)
    assert found["waits"] == ["pool_timeout" if transport == "websocket" else "idle_timeout", "cancelled", "closed", "closed"]
    end, seconds = found["mute"]
    assert end == ("connection_lost" if transport == "websocket" else "idle_timeout") and seconds < 4
    assert found["stats"]["errors"] == {"cancelled": 1} and found["stats"]["connections"]["live"] <= 8


def silent(way: str) -> AbstractContextManager[LocalServer | WebSocketPeer]:
    """A peer whose streams stand still after the first event; that of the WebSocket answers no ping, either."""
    transport, _, secure = way.partition("-")
    if transport == "http_sse":
        return LocalServer(ssl_context=authority().server_context() if secure else None, faults=[faults.Stall(after=1)])

    def mute(wire: Wire) -> None:
        wire.auto_pong = False
        wire.read_create()
        wire.send(text_response("x")[0])
        wire.hold()

    return WebSocketPeer(mute, tls=bool(secure))
