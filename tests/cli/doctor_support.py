"""What the tests of ``pixir-sync doctor`` share: its report as JSON, checked for its form, and servers with certificates."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pixir_sync.local import LocalServer
from tests.cli.support import Done
from tests.support.tls import authority

HERE = ("python", "packages", "extras", "settings", "key")
WAY = ("dns", "tcp", "proxy", "tls")
WEBSOCKET = ("upgrade", "open", "websocket", "continuation")
ALL = (*HERE, *WAY, *WEBSOCKET, "http", "streaming")


@dataclass(frozen=True)
class Report:
    """What `doctor --json` said, by the name of each check."""

    done: Done
    checks: dict[str, dict[str, Any]]

    def of(self, state: str) -> list[str]:
        """The names of the checks in this state."""
        return [name for name, check in self.checks.items() if check["state"] == state]

    def says(self, name: str) -> str:
        says: str = self.checks[name]["says"]
        return says

    def advises(self, name: str) -> str:
        advice: str = self.checks[name]["advice"]
        return advice

    def needs(self, failed: str) -> list[str]:
        """The checks that were skipped because of this one."""
        return [name for name in self.of("skipped") if self.says(name) == f"needs {failed}"]


Diagnose = Callable[..., Report]


def read(done: Done) -> Report:
    """The report of a run with ``--json``; everything about its form holds."""
    found = json.loads(done.out)
    checks = {check["name"]: check for check in found["checks"]}
    wrong = [name for name, check in checks.items() if check["state"] == "wrong"]
    assert set(found) == {"ok", "checks"} and found["ok"] is (not wrong) and len(checks) == len(found["checks"])
    assert all(set(check) == {"name", "state", "says", "advice", "ms"} for check in checks.values())
    assert all(bool(check["advice"]) == (check["state"] in ("wrong", "limited")) for check in checks.values())
    if wrong:
        assert done.failed_with(f"something is wrong: {', '.join(wrong)}")
    else:
        assert (done.status, done.err) == (0, "")
    return Report(done, checks)


@contextmanager
def serving_tls(certificate: Any = None) -> Iterator[str]:
    """The base URL of a local server that speaks TLS, with the authority's certificate or this one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (certificate or authority().certificate).configure_cert(context)
    with LocalServer(ssl_context=context) as server:
        yield server.base_url
