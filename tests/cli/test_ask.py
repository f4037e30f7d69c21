"""``pixir-sync ask``: one question, one answer, and every way in which that can fail."""

from __future__ import annotations

import signal
import subprocess

import pytest

from pixir_sync import Result
from pixir_sync.local import Close, HttpError, LocalServer, Pause
from tests.cli.conftest import Command
from tests.cli.support import COMMAND, LIMIT, completed, created, delta, ended, reached, refused_url, says, start


def test_an_answer_in_a_pipe_is_plain_text_and_one_newline(command: Command, server: LocalServer) -> None:
    """Markup stays as it is, stderr stays empty, the status is 0."""
    done = command("ask", "*hi* `there`", "--base-url", server.base_url)
    assert (done.status, done.out, done.err) == (0, "Heard: *hi* `there` (context: 1)\n", "")


def test_it_runs_on_the_embedded_server_without_a_key_and_past_any_proxy(command: Command) -> None:
    """--local needs nothing of the environment and heeds no proxy in it."""
    done = command("ask", "hi", "--local", OPENAI_API_KEY="", HTTP_PROXY="http://127.0.0.1:1", http_proxy="http://127.0.0.1:1")
    assert (done.status, done.out, done.err) == (0, "Heard: hi (context: 1)\n", "")


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "-"]])
def test_the_prompt_is_read_from_a_pipe(here: Command, arguments: list[str]) -> None:
    """Without a prompt, or with "-", standard input is the prompt, but for its last newline."""
    done = here(*arguments, "--local", stdin="from the\npipe\n")
    assert done.out == "Heard: from the\npipe (context: 1)\n"


@pytest.mark.parametrize("arguments", [["--json", "--local", "ask", "hi"], ["ask", "--json", "--local", "hi"]])
def test_json_is_the_whole_result_in_one_line(here: Command, arguments: list[str]) -> None:
    """Result.from_json reads it back; the options may stand on either side of the command."""
    done = here(*arguments)
    assert done.status == 0
    assert done.out.count("\n") == 1
    result = Result.from_json(done.out)
    assert (result.text, result.model) == ("Heard: hi (context: 1)", "local-model")


def test_the_model_is_the_one_that_was_asked_for(here: Command, server: LocalServer) -> None:
    """--model reaches the server; what stands after the command wins."""
    here("--model", "first", "ask", "hi", "--model", "second", "--base-url", server.base_url)
    assert [request.body["model"] for request in server.requests] == ["second"]


def test_a_text_that_ends_in_a_newline_gets_no_other(here: Command, server: LocalServer) -> None:
    """In a pipe the answer arrives unchanged."""
    server.scenario = says("one\n", "two\n")
    assert here("ask", "hi", "--base-url", server.base_url).out == "one\ntwo\n"


def test_pieces_arrive_while_the_model_still_writes(env: dict[str, str], server: LocalServer) -> None:
    """A reader of the pipe has the first piece before the server sends the second."""
    pause = Pause()
    server.scenario = says("first\n", pause, "second")
    process = start(env, "ask", "hi", "--base-url", server.base_url)
    assert process.stdout is not None
    assert reached(pause)
    assert process.stdout.readline() == "first\n"
    pause.event.set()
    done = ended(process)
    assert (done.status, done.out, done.err) == (0, "second\n", "")


def test_an_answer_that_the_encoding_cannot_say_is_escaped(command: Command) -> None:
    """A terminal or pipe of another encoding is no reason to fail."""
    done = command("ask", "snow ☃", "--local", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (done.status, done.out) == (0, "Heard: snow \\u2603 (context: 1)\n")


# What goes wrong is one line.


def test_a_wrong_key_is_one_line_without_the_key(command: Command, server: LocalServer) -> None:
    """The kind and the server's own message; never the key."""
    done = command("ask", "hi", "--base-url", server.base_url, OPENAI_API_KEY="sk-sentinel")
    assert done.failed_with("not_authenticated: Incorrect API key provided.")
    assert "sentinel" not in done.err


def test_without_a_key_it_says_what_to_set(command: Command) -> None:
    """No key: one line that names the variable and the way without one."""
    assert command("ask", "hi", OPENAI_API_KEY="").failed_with("no API key: set OPENAI_API_KEY, or use --local")


def test_an_endpoint_has_its_own_key(here: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one is asked for, by its name; where none is needed nothing is missing, and the server has its say."""
    monkeypatch.delenv("XAI_API_KEY", raising=False)
    assert here("ask", "hi", "--endpoint", "xai").failed_with("no API key: set XAI_API_KEY, or use --local")
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    place = ("--endpoint", "ollama", "--base-url", server.base_url)
    assert here("ask", "hi", *place, key=None).failed_with("not_authenticated: ")
    monkeypatch.setenv("OLLAMA_API_KEY", server.api_key)
    done = here("--endpoint", "ollama", "ask", "hi", "--base-url", server.base_url, key=None)
    assert (done.status, done.out) == (0, "Heard: hi (context: 1)\n") and len(server.upgrades) == 0


def test_a_server_that_is_not_there_is_one_line(command: Command) -> None:
    """A refused connection names the place and the reason."""
    url = refused_url()
    assert command("ask", "hi", "--base-url", url).failed_with("connect_failed: 127.0.0.1:")


def test_a_server_that_dies_leaves_what_it_said(command: Command, server: LocalServer) -> None:
    """The text so far is shown, in whole lines; then the error."""
    server.scenario = says("half of ", Close())
    done = command("ask", "hi", "--base-url", server.base_url)
    assert done.failed_with("connection_lost: ")
    assert done.out == "half of \n"


def test_an_error_of_the_server_cannot_write_on_the_terminal(here: Command, server: LocalServer) -> None:
    """A message of several lines, with control characters, is still one clean line."""
    refused = HttpError(400, {"error": {"message": "no\nway \x1b[2Jat\x07 all", "type": "invalid_request_error"}})
    server.scenario = lambda body: [refused]
    done = here("ask", "hi", "--base-url", server.base_url)
    assert done.failed_with("no way [2Jat all")
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--base-url", "ftp://host/v1"], "invalid_args: base_url must begin with http:// or https://"),
        (["--base-url", "http://example.com/v1"], "invalid_args: base_url: plain http goes to this machine only"),
        (["--base-url", "nonsense"], "invalid_args: base_url"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(here: Command, arguments: list[str], text: str) -> None:
    """What the library refuses is told like any other failure, before any network."""
    assert here("ask", "hi", *arguments).failed_with(text)


def test_a_key_that_cannot_be_sent_is_refused(here: Command, server: LocalServer) -> None:
    """A key with a control character goes nowhere, and is not shown."""
    done = here("ask", "hi", "--base-url", server.base_url, key="sk-senti\x01nel")
    assert done.failed_with("invalid_args: OPENAI_API_KEY holds")
    assert "senti" not in done.err
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ask", "hi", "--bogus"], "No such option"),
        (["ask", "hi", "--modle", "x"], "--model"),
        (["ask", "hi", "--transport", "pigeon"], "'pigeon' is not one of"),
        (["ask", "hi", "--local", "--base-url", "http://localhost/v1"], "exclude each other"),
        (["ask", "hi", "--local", "--endpoint", "xai"], "--local and --endpoint exclude each other"),
        (["ask", "hi", "--endpoint", "olama"], "'olama' is not one of"),
        (["ask", " ", "--local"], "the prompt is empty"),
        (["ask", "--api-key", "sk-1", "hi"], "No such option"),
        (["aks", "hi"], "No such command"),
    ],
)
def test_a_wrong_call_is_answered_with_the_usage_and_status_2(here: Command, arguments: list[str], text: str) -> None:
    """As click does it; there is no option for a key."""
    done = here(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Usage: pixir-sync")
    assert text in done.err


def test_standard_input_that_is_no_text_is_one_line(env: dict[str, str]) -> None:
    """Bytes that are not UTF-8 do not end in a traceback."""
    command = [*COMMAND, "ask", "--local"]
    done = subprocess.run(command, env=env, input=b"\xff\xfe", capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"pixir-sync: standard input is not utf-8 text\n")


def test_a_refusal_is_a_failure(here: Command, server: LocalServer) -> None:
    """The model's own words, on stderr, and status 1."""
    server.scenario = lambda body: [created(), completed("I will not", "refusal")]
    done = here("ask", "hi", "--base-url", server.base_url)
    assert done.failed_with("the model declined: I will not")
    assert done.out == ""


def test_an_answer_that_was_cut_off_is_shown_with_a_note(here: Command, server: LocalServer) -> None:
    """The text is what there is; stderr says why there is no more."""
    cut = completed("half", status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    server.scenario = lambda body: [created(), delta("half"), cut]
    done = here("ask", "hi", "--base-url", server.base_url)
    assert (done.status, done.out, done.err) == (0, "half\n", "pixir-sync: the answer was cut off by a length limit\n")


# Interrupted, and left by its reader.


def test_an_interrupt_ends_it_with_130_and_what_was_said(env: dict[str, str], server: LocalServer) -> None:
    """Ctrl-C in the middle of an answer: at once, without a traceback."""
    pause = Pause()
    server.scenario = says("first ", pause, "second")
    process = start(env, "ask", "hi", "--base-url", server.base_url)
    assert reached(pause)
    assert process.stdout is not None
    assert process.stdout.read(6) == "first "
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert (done.status, done.out, done.err.strip()) == (130, "\n", "")


def test_a_reader_that_leaves_ends_it_without_a_word(env: dict[str, str], server: LocalServer) -> None:
    """As under ``| head -1``: no traceback, no message."""
    pause = Pause()
    server.scenario = says("first\n", pause, "second\n" * 1000)
    with start(env, "ask", "hi", "--base-url", server.base_url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        pause.event.set()
        assert process.stderr.read() == ""
        assert process.wait(LIMIT) == 1
