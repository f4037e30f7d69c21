"""A short soak with a new seed each time, and what the long one stands on."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pixir_sync.local import LocalServer
from tests.soak.figures import Figures, Suspicion
from tests.soak.words import FATES, TOOL, answer_to, digest
from tests.support.fake import provider_for


@pytest.mark.timeout(180)
def test_a_short_soak_finds_nothing() -> None:
    """64 threads over both transports, plain and TLS, with faults, cancels and forks: no defect, nothing left over."""
    seed = random.SystemRandom().randrange(1 << 32)
    command = [sys.executable, "-m", "tests.soak", "--seconds", "12", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=160)
    assert done.returncode == 0 and "no defects" in done.stdout, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_the_right_answer_is_the_local_models() -> None:
    """What a soak compares with is what the model says, and a digest that changes with each word, call and output before it."""
    asked = [{"role": "user", "content": "one"}]
    with LocalServer() as server, provider_for(server) as provider:
        first = provider.complete(asked)
        called = provider.complete([{"role": "user", "content": "look_up"}], tools=[TOOL])
    said = answer_to(asked)
    assert said.startswith(first.text + " #") and called.function_calls[0].name == "look_up"
    output = {"type": "function_call_output", "call_id": called.function_calls[0].call_id, "output": "found"}
    after = [*asked, *called.output_items, output]
    assert answer_to(after) == f'Tool answered: "found" (context: 1) #{digest(after)}'
    contexts = [asked, after, after[:-1], [*after[:-1], output | {"output": "x"}], [*asked, *first.output_items]]
    assert len({digest(context) for context in contexts}) == len(contexts)


def test_an_error_is_explained_by_a_noise_of_its_time_only() -> None:
    """What a calm server has no part in is a defect of ours."""
    lost = Suspicion("plain", 10.0, 11.0, "connection_lost", "a call")
    assert lost.explained([(1.0, 2.0, "cut"), (10.5, 10.6, "cut")]) and lost.explained([(9.0, 12.0, "upgrade 503")])
    assert not lost.explained([(1.0, 2.0, "cut"), (11.1, 11.2, "cut")])


def test_a_report_says_what_is_wrong_and_how_to_see_it_again() -> None:
    """The seed and the command stand in it."""
    figures = Figures(7, "tox -e soak -- --seconds 600 --seed 7")
    assert "no defects" in figures.report()
    figures.defect("mixed answers")
    assert "1 defects" in figures.report() and "mixed answers" in figures.report() and "--seed 7" in figures.report()


def test_every_fate_can_be_made() -> None:
    """And none of them may end a call in a way that the library has no name for."""
    for fate in FATES.values():
        assert fate.fault() is not None and all("_" in kind or kind == "overloaded" for kind in fate.kinds)


def test_the_page_names_tests_that_there_are() -> None:
    """docs/explanation/reliability.md says which test shows each promise."""
    root = Path(__file__).parents[2]
    named = re.findall(r"`(tests/[\w/.]+\.py)`", (root / "docs/explanation/reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 15 and [name for name in named if not (root / name).is_file()] == []
