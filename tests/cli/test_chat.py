"""``pixir-sync chat``: in a pipe and on a terminal."""

from __future__ import annotations

import json

import pytest

from pixir_sync.cli.chat import read_line
from pixir_sync.local import HttpError, LocalServer, Pause
from tests.cli.conftest import Command
from tests.cli.support import Terminal, reached, says


def test_in_a_pipe_every_line_is_a_turn_of_one_conversation(command: Command) -> None:
    """The context grows turn by turn; empty lines are none."""
    done = command("chat", "--local", stdin="one\n\ntwo\nthree")
    assert done.out.splitlines() == [f"Heard: {word} (context: {n})" for n, word in enumerate(("one", "two", "three"), 1)]
    assert (done.status, done.err) == (0, "")


def test_new_starts_again_and_exit_leaves(here: Command) -> None:
    """After /new the context is empty; nothing after /exit is read."""
    done = here("chat", "--local", stdin="one\n/new\ntwo\n/exit\nthree\n")
    assert done.out == "Heard: one (context: 1)\nHeard: two (context: 1)\n"


def test_an_unknown_command_is_told_and_not_sent(here: Command) -> None:
    """A misspelt command names the ones there are; a path is no command."""
    done = here("chat", "--local", stdin="/exti\n/etc/hosts\n")
    assert done.out == "Heard: /etc/hosts (context: 1)\n"
    assert "no command /exti: /new starts again, /exit" in done.err


def test_json_is_one_result_per_line(here: Command) -> None:
    """Each line is a whole result."""
    done = here("chat", "--local", "--json", stdin="one\ntwo\n")
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["Heard: one (context: 1)", "Heard: two (context: 2)"]


def test_in_a_pipe_the_first_failure_ends_it(here: Command, server: LocalServer) -> None:
    """One line on stderr, status 1, and no further turn."""
    server.scenario = lambda body: [HttpError(400, {"error": {"message": "no"}})] if "two" in str(body["input"][-1]) else None
    done = here("chat", "--base-url", server.base_url, stdin="one\ntwo\nthree\n")
    assert done.failed_with("no")
    assert done.out == "Heard: one (context: 1)\n"
    assert len(server.requests) == 2


def test_on_a_terminal_it_talks_and_ctrl_d_leaves(keyless: dict[str, str]) -> None:
    """A prompt, rendered answers, the growing context; Ctrl-D ends it with status 0."""
    with Terminal(keyless, "chat", "--local") as terminal:
        terminal.until("> ")
        terminal.keys("one **two**\n")
        place = terminal.until("(context: 1)", terminal.until("Heard: one "))
        assert "**" not in terminal.shown[terminal.shown.index("Heard") :]
        place = terminal.until("> ", place)
        terminal.keys("three\n")
        place = terminal.until("Heard: three (context: 2)", place)
        terminal.until("> ", place)
        terminal.keys("\x04")
        assert terminal.status() == 0


def test_ctrl_c_at_the_prompt_drops_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was typed is forgotten, and the prompt comes again; the end of the input is told apart."""
    answers: list[str | type[BaseException]] = [KeyboardInterrupt, "after", EOFError]

    def typed(prompt: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr("builtins.input", typed)
    assert [read_line(), read_line()] == ["after", None]


def test_on_a_terminal_ctrl_c_ends_the_answer_and_nothing_else(env: dict[str, str], server: LocalServer) -> None:
    """The cancelled turn leaves no trace: the next one is the first of the context."""
    pause = Pause()
    server.scenario = says("never ending ", pause)
    with Terminal(env, "chat", "--base-url", server.base_url) as terminal:
        terminal.until("> ")
        terminal.keys("one\n")
        place = terminal.until("never ending")
        assert reached(pause)
        terminal.keys("\x03")
        place = terminal.until("cancelled; this turn is forgotten", place)
        terminal.until("> ", place)
        server.scenario = None
        terminal.keys("two\n")
        place = terminal.until("Heard: two (context: 1)", place)
        terminal.until("> ", place)
        terminal.keys("/exit\n")
        assert terminal.status() == 0


def test_on_a_terminal_a_failed_turn_is_told_and_the_chat_goes_on(env: dict[str, str], server: LocalServer) -> None:
    """One line for the failure; the next turn is answered, without the one that failed."""
    server.scenario = lambda body: [HttpError(400, {"error": {"message": "not today"}})]
    with Terminal(env, "chat", "--base-url", server.base_url) as terminal:
        terminal.until("> ")
        terminal.keys("one\n")
        place = terminal.until("not today")
        terminal.until("> ", place)
        server.scenario = None
        terminal.keys("two\n")
        terminal.until("Heard: two (context: 1)", place)
