"""The names that programs import, and what importing them costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pixir_sync
from pixir_sync.local import LocalServer
from tests.benchmarks.import_time import measure

# Adding a name is a decision, and so is taking one away: both are made here too.
PROVIDER = {"Provider", "ResponseStream", "CancelToken", "Transport", "Call"}
SETTINGS = {"Keepalive", "Network", "PoolOptions", "ProviderConfig", "RetryPolicy", "Timeouts"}
CREDENTIALS = {"ApiKey", "ChatGPTToken", "Credential"}
HOOKS = {"Hook", "TurnRecord"}
REQUESTS = {"Request", "assistant", "from_messages", "image", "tool_output", "tool_spec", "user"}
EVENTS = {"Event", "FunctionCallDelta", "ItemDone", "ReasoningDelta", "RefusalDelta", "Terminal", "TextDelta"}
RESULTS = {"FunctionCall", "Result", "Usage"}
ERRORS = {
    "Cancelled", "ConnectFailed", "ConnectTimeout", "ConnectionLost", "ContextOverflow", "DeadlineExceeded",
    "FirstEventTimeout", "FrameTooLarge", "HandshakeRefused", "IdleTimeout", "InvalidRequest", "InvalidResponse",
    "ModelNotSupported", "NotAuthenticated", "Overloaded", "PermissionDenied", "PixirError", "PoolTimeout",
    "ProviderClosed", "ProviderError", "QuotaExceeded", "RateLimited", "ResponseCancelled", "ResponseFailed",
    "SessionBusy", "TotalTimeout", "TransportError", "UsageLimitReached", "WriteTimeout",
}  # fmt: skip
NAMES = PROVIDER | SETTINGS | CREDENTIALS | HOOKS | REQUESTS | EVENTS | RESULTS | ERRORS | {"__version__"}

HEAVY = {"aiohttp", "asyncio", "click", "rich", "requests", "urllib3", "sseclient", "websocket", "dataclasses_json",
         "opentelemetry"}  # fmt: skip


# Nor does a first event over WebSocket need these: for waits, HTTP and hooks, and to find a configuration file.
LATE = {"email", "http.client", "http.cookiejar", "pathlib", "platformdirs", "pixir_sync.hooks.jsonlines",
        "pixir_sync.hooks.record", "pixir_sync.hooks.spans", "pixir_sync.protocol.sse", "pixir_sync.transports.http.guard",
        "pixir_sync.transports.http.session", "random", "shutil", "tempfile", "urllib.request"}  # fmt: skip


def probe(code: str) -> dict[str, list[str]]:
    """Run a statement in a fresh interpreter: the modules that it imported and the threads that live after it."""
    code += "\nimport json, sys, threading"
    code += "\nprint(json.dumps([sorted(sys.modules), [t.name for t in threading.enumerate()]]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    modules, threads = json.loads(done.stdout)
    return {"modules": modules, "threads": threads}


def test_the_public_names_are_these() -> None:
    """``__all__`` is the contract: nothing more, nothing less, nothing twice."""
    assert set(pixir_sync.__all__) == NAMES
    assert len(pixir_sync.__all__) == len(NAMES)


def test_every_name_is_there() -> None:
    """Each one can be imported, and none is a module."""
    for name in NAMES:
        assert not inspect.ismodule(getattr(pixir_sync, name)), name


def test_the_errors_are_one_family() -> None:
    """Catching `PixirError` catches all of them."""
    assert all(issubclass(getattr(pixir_sync, name), pixir_sync.PixirError) for name in ERRORS)


def test_the_events_are_one_family() -> None:
    """Every view is an `Event`."""
    assert all(issubclass(getattr(pixir_sync, name), pixir_sync.Event) for name in EVENTS)


def test_every_public_name_is_documented() -> None:
    """``help()`` has something to say about each of them."""
    for name in sorted(NAMES - {"__version__"}):
        assert (inspect.getdoc(getattr(pixir_sync, name)) or "").strip(), name


def test_the_package_is_typed() -> None:
    """Type checkers look for this file."""
    assert pixir_sync.__file__ is not None
    assert (Path(pixir_sync.__file__).parent / "py.typed").is_file()


def test_import_is_light() -> None:
    """Importing brings in none of the heavy libraries and starts no thread."""
    found = probe("import pixir_sync")
    assert not {name for name in found["modules"] if name.split(".")[0] in HEAVY}
    assert found["threads"] == ["MainThread"]


def test_a_provider_opens_nothing() -> None:
    """Making, describing and closing a provider imports no HTTP library and starts no thread."""
    found = probe("import pixir_sync\np = pixir_sync.Provider(model='m')\nrepr(p)\np.close()")
    assert not {name for name in found["modules"] if name.split(".")[0] in HEAVY}
    assert found["threads"] == ["MainThread"]


def test_the_first_event_needs_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it does not need is not imported on the way to it, unless the environment's own start did that."""
    monkeypatch.delenv("PIXIR_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with LocalServer() as server:
        given = {"model": "m", "base_url": server.base_url, "api_key": server.api_key, "transport": "websocket"}
        made = f"Provider(**{given!r}, network=Network(trust_env=False))"
        found = probe(f"from pixir_sync import Network, Provider\nnext({made}.stream('Hi'))")
    assert not {*found["modules"]} & (HEAVY - {"websocket"} | LATE) - {*probe("pass")["modules"]}
    assert "websocket" in found["modules"]


def test_the_late_names_come_with_the_others() -> None:
    """Those of hooks are public names like the rest, at their first use and by a star, and shown before it."""
    code = """
import pickle, pixir_sync, pixir_sync.hooks
assert {"Hook", "TurnRecord"} <= {*dir(pixir_sync)} and {*pixir_sync.hooks.__all__} <= {*dir(pixir_sync.hooks)}
assert pixir_sync.TurnRecord is pixir_sync.hooks.TurnRecord is pixir_sync.TurnRecord
record = pixir_sync.TurnRecord(started_at=1.0)
assert pickle.loads(pickle.dumps(record)) == record
names = {}
exec("from pixir_sync import *", names)
assert {*pixir_sync.__all__} <= {*names} and names["TurnRecord"] is type(record)
for module in (pixir_sync, pixir_sync.public, pixir_sync.hooks):
    assert not hasattr(module, "Nothing")
"""
    assert probe(code)["threads"] == ["MainThread"]


def test_import_is_quick() -> None:
    """A loose bound, for busy machines; tests/benchmarks/import_time.py prints the figure."""
    assert measure(rounds=3) < 1.0
