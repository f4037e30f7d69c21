"""What every test of the project has: the rows of the acceptance list, and one profile for the laws."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.support.rows", "pytester"]

# A busy machine is no fault of the code: time limits are pytest-timeout's business.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
