"""Tests of a Django view, for Django's test runner: ``python -m django test test_with_django --settings=django_site``."""

from __future__ import annotations

import os
from unittest.mock import patch

from django.test import TestCase
from django_site import provider

from pixir_sync.local import LocalServer, faults


class SummariseTest(TestCase):
    server: LocalServer

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.server = cls.enterClassContext(LocalServer())
        cls.enterClassContext(patch.dict(os.environ, cls.server.environment))

    def setUp(self) -> None:
        self.server.requests.clear()
        provider.cache_clear()  # a Provider that was made before knows another environment
        self.addCleanup(provider().close)

    def test_the_text_is_summarised(self) -> None:
        answer = self.client.post("/summarise", {"text": "A long story"})
        self.assertEqual(answer.json(), {"summary": "Heard: A long story (context: 1)"})
        self.assertEqual(self.server.requests.only.instructions, "Summarise in one line.")

    def test_an_empty_account_is_a_bad_gateway(self) -> None:
        with self.server.fault(faults.Refuse(429, code="insufficient_quota", type="insufficient_quota")):
            answer = self.client.post("/summarise", {"text": "A long story"})
        self.assertEqual((answer.status_code, answer.json()), (502, {"error": "quota_exceeded"}))
