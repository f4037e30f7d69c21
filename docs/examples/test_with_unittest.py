"""A program and its tests with unittest: one server for each test, or one for all tests of a class."""

from __future__ import annotations

import os
import unittest
from unittest.mock import patch

from pixir_sync import ConnectionLost, Provider
from pixir_sync.local import LocalServer, faults

# The program.


def summarise(text: str) -> str:
    with Provider() as provider:
        return provider.complete(text, instructions="Summarise in one line.").text


# Its tests.


class EachTestHasAServer(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(LocalServer())
        self.enterContext(patch.dict(os.environ, self.server.environment))

    def test_the_instructions_are_sent(self) -> None:
        self.assertEqual(summarise("A long story"), "Heard: A long story (context: 1)")
        self.assertEqual(self.server.requests.only.instructions, "Summarise in one line.")

    def test_a_connection_lost_in_the_middle_is_an_error(self) -> None:
        with self.server.fault(faults.Drop(after=5)), self.assertRaises(ConnectionLost):
            summarise("A long story")


class AllTestsShareAServer(unittest.TestCase):
    server: LocalServer

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = cls.enterClassContext(LocalServer(model="the-model-of-these-tests"))
        cls.enterClassContext(patch.dict(os.environ, cls.server.environment))

    def setUp(self) -> None:
        self.server.requests.clear()
        self.server.scenario = None

    def test_the_model_is_the_configured_one(self) -> None:
        summarise("A long story")
        self.assertEqual(self.server.requests.only.model, "the-model-of-these-tests")

    def test_the_answer_is_returned(self) -> None:
        self.server.scenario = "A short story."
        self.assertEqual(summarise("A long story"), "A short story.")


if __name__ == "__main__":
    unittest.main()
