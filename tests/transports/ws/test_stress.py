"""Everything at once, for a while, with a new seed each time: nothing is mixed, lost, doubled, or left over."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from tests.support.stress_peer import answer_to, said


@pytest.mark.row("B14", "B15")
@pytest.mark.timeout(120)
def test_many_threads_against_a_server_that_does_its_worst(tls: bool) -> None:
    """Sixteen threads with four sessions each, six seconds: every stream ends once, with the right text, and leaves nothing."""
    seed = random.SystemRandom().randrange(1 << 32)
    command = [sys.executable, "-m", "tests.support.stress", "--seconds", "6", "--seed", str(seed), *(["--tls"] if tls else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "defects: 0" in done.stdout, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_the_right_answer_depends_on_the_whole_context() -> None:
    """What the stress test compares with names the turn, and changes with each word of what came before."""
    answered = {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    context: list[dict[str, Any]] = [{"role": "user", "content": "n1"}, answered]
    assert said(context) == [["user", "n1"], ["assistant", "a"]]
    answers = {answer_to("n2", said(context)), answer_to("n2", said(context[:1])), answer_to("n3", said(context))}
    assert len(answers) == 3 and all(answer.startswith("[n") for answer in answers)
