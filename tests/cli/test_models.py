"""``pixir-sync models``."""

from __future__ import annotations

import json

from pixir_sync.local import LocalServer
from tests.cli.conftest import Command


def test_models_are_listed_one_per_line(here: Command) -> None:
    """In a pipe, the bare names."""
    with LocalServer(models=["b-model", "a-model"]) as server:
        done = here("models", "--base-url", server.base_url)
    assert (done.status, done.out) == (0, "a-model\nb-model\n")


def test_models_json_has_the_default(here: Command) -> None:
    """The names and the model of calls that name none."""
    done = here("models", "--local", "--json", "--model", "mine")
    assert json.loads(done.out) == {"models": ["local-model"], "default": "mine"}


def test_models_needs_a_key(here: Command) -> None:
    """Like every call."""
    assert here("models", key=None).failed_with("no API key: set OPENAI_API_KEY, or use --local")
