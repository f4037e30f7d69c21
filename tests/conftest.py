"""What every test of the project has: the rows of the acceptance list, one profile for the laws, and the two transports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.both import TransportName

pytest_plugins = ["tests.support.rows", "tests.support.untraced", "pytester"]

# Where a developer's own programs go is no place for tests.
for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "PIXIR_ENDPOINT", "PIXIR_MODEL", "PIXIR_TRANSPORT"):
    os.environ.pop(name, None)
os.environ["PIXIR_CONFIG"] = os.devnull

# A busy machine is no fault of the code: time limits are pytest-timeout's business.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(params=["websocket", "http_sse"])
def transport(request: pytest.FixtureRequest) -> TransportName:
    """Each of the two transports: what holds for a call holds over both."""
    found: TransportName = request.param
    return found
