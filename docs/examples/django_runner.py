"""A test runner for Django that has the local server in the environment before the site is loaded.

In the settings: ``TEST_RUNNER = "django_runner.Runner"``.
"""

from __future__ import annotations

import os
from typing import Any

from django.test.runner import DiscoverRunner

from pixir_sync.local import LocalServer


class Runner(DiscoverRunner):
    def setup_test_environment(self, **options: Any) -> None:
        super().setup_test_environment(**options)
        self.server = LocalServer()
        self.server.start()
        os.environ.update(self.server.environment)

    def teardown_test_environment(self, **options: Any) -> None:
        self.server.close()
        super().teardown_test_environment(**options)
