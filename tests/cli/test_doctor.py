"""``pixir-sync doctor``: the key, the WebSocket, HTTP, how events come, and how it all is shown."""

from __future__ import annotations

import datetime
import signal
import sys
from contextlib import suppress

import pytest

from pixir_sync.cli.doctor import place
from pixir_sync.local import Delay, LocalServer, Pause, Together, faults
from tests.cli.conftest import Command
from tests.cli.doctor_support import ALL, HERE, WAY, WEBSOCKET, Diagnose, read, serving_tls
from tests.cli.support import Terminal, ended, reached, refused_url, start
from tests.support.events import text_response
from tests.support.peer import Conn, ScriptedPeer
from tests.support.tls import authority
from tests.support.ws_peer import WebSocketPeer, Wire

SECRET = "sk-" + "wombat" * 3


# All is well.


def test_locally_nothing_is_missing(command: Command) -> None:
    """Every check in its order, without a key; one line each, and a word at the end. That the model is too quick is no lack."""
    done = command("doctor", "--local", OPENAI_API_KEY="")
    lines = done.out.splitlines()
    assert (done.status, done.err, lines.pop()) == (0, "", "Calls work.")
    assert [line.split()[1] for line in lines] == list(ALL)
    assert {line.split()[0] for line in lines} == {"ok"} and "too quick to tell" in lines[-1]
    assert len({line.index(" ms  ") for line in lines}) == 1, "the columns are aligned"


def test_the_calls_are_real(diagnose: Diagnose, server: LocalServer) -> None:
    """Two over one WebSocket, of which the second goes on from the first, and one over HTTP; every check is ok."""
    report = diagnose(server.base_url)
    assert report.of("ok") == list(ALL)
    first, second, over_http = [request.body for request in server.requests]
    assert over_http["stream"] is True
    assert "previous_response_id" not in first and second["previous_response_id"] and len(second["input"]) == 1
    assert report.says("continuation") == "the second turn sent 1 of 3 items, on previous_response_id"
    assert len(server.upgrades) == 2
    assert all(check["ms"] >= 0 for check in report.checks.values())


@pytest.mark.parametrize(
    ("transport", "names", "requests"),
    [("websocket", (*HERE, *WAY, *WEBSOCKET, "streaming"), 2), ("http_sse", (*HERE, *WAY, "http", "streaming"), 1),
     ("sse", (*HERE, *WAY, "http", "streaming"), 1)],
)  # fmt: skip
def test_a_transport_limits_the_checks(
    diagnose: Diagnose, server: LocalServer, transport: str, names: tuple[str, ...], requests: int
) -> None:
    """What the other transport needs is not looked at, and not asked for."""
    report = diagnose(server.base_url, "--transport", transport)
    assert tuple(report.checks) == names and len(server.requests) == requests
    assert report.of("wrong") == report.of("limited") == []
    assert bool(server.upgrades) == (transport == "websocket")


def test_over_tls_the_certificate_is_described(diagnose: Diagnose, trusted: None) -> None:
    """Its version, who issued it, and until when."""
    with serving_tls() as url:
        report = diagnose(url)
    assert report.of("wrong") == report.of("limited") == []
    assert report.says("tls").startswith("TLSv1.3, certificate by trustme v") and ", until 3000-01-01" in report.says("tls")


def test_a_certificate_that_ends_soon(diagnose: Diagnose, trusted: None) -> None:
    """The days that are left are counted."""
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3, hours=12)
    with serving_tls(authority().ca.issue_cert("127.0.0.1", not_after=ends)) as url:
        report = diagnose(url, "--transport", "http_sse")
    assert report.says("tls").endswith(f"until {ends:%Y-%m-%d}, in 3 days")


# The key.


def test_without_a_key_it_says_so_and_calls_nobody(diagnose: Diagnose, server: LocalServer) -> None:
    """The way up to TLS is still looked at; nothing is asked for."""
    report = diagnose(server.base_url, key=None)
    assert report.of("wrong") == ["key"] and "OPENAI_API_KEY" in report.advises("key")
    assert report.needs("key") == [*WEBSOCKET, "http"] and report.of("ok")[-4:] == list(WAY)
    assert len(server.requests) == len(server.upgrades) == 0


@pytest.mark.parametrize("key", ["wombat\twombat", "wömbat"])
def test_a_key_that_cannot_be_sent(diagnose: Diagnose, server: LocalServer, key: str) -> None:
    """It is told without a character of it, and sent to nobody."""
    report = diagnose(server.base_url, key=key)
    assert report.of("wrong") == ["key"] and "mb" not in report.done.out.replace("number", "")
    assert len(server.upgrades) == 0


def test_a_wrong_key_is_refused_on_both_legs(diagnose: Diagnose, server: LocalServer) -> None:
    """Each leg says that it was it; the key is shown by neither."""
    report = diagnose(server.base_url, key=SECRET)
    assert report.of("wrong") == ["upgrade", "http"]
    assert report.says("upgrade") == "refused with 401: the key was refused at the upgrade"
    assert report.says("http") == "the key was refused over HTTP (401)"
    assert report.needs("upgrade") == ["open", "websocket", "continuation"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_only_the_upgrade_refuses(diagnose: Diagnose, server: LocalServer, status: int) -> None:
    """No call falls back from it, so it is wrong although HTTP works; and that is what the advice is about."""
    with server.fault(faults.RefuseUpgrade(status)):
        report = diagnose(server.base_url)
    assert report.of("wrong") == ["upgrade"] and report.checks["http"]["state"] == "ok"
    assert f"refused with {status}: " in report.says("upgrade") and "use the transport http_sse" in report.advises("upgrade")


def test_where_no_key_is_needed_none_is_missed(here: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is called without one; this one wants one after all. Where no WebSocket is offered none is looked for."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    report = read(here("doctor", "--endpoint", "vllm", "--base-url", server.base_url, "--json", key=None))
    assert report.says("key") == "none, and none is needed"
    assert report.says("settings").endswith("http_sse (vLLM offers no WebSocket)")
    assert report.of("wrong") == ["http"] and "VLLM_API_KEY" in report.advises("http") and not server.upgrades
    monkeypatch.setenv("VLLM_API_KEY", server.api_key)
    report = read(here("doctor", "--endpoint", "vllm", "--base-url", server.base_url, "--json", key=None))
    assert report.of("wrong") == report.of("limited") == [] and report.says("key") == "present"


# The WebSocket.


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(404, "no WebSocket at this address"), (405, "POST only"), (426, "offers no WebSocket"), (501, "offers no WebSocket"),
     (503, "overloaded or down"), (400, "not taken for an upgrade"), (407, "wants a login"),
     (418, "not said why")],
)  # fmt: skip
def test_an_upgrade_refused_while_http_works(diagnose: Diagnose, server: LocalServer, status: int, meaning: str) -> None:
    """Calls work, without continuation: limited, and the status is 0. With the WebSocket alone nothing works."""
    with server.fault(faults.RefuseUpgrade(status)):
        both, alone = diagnose(server.base_url), diagnose(server.base_url, "--transport", "websocket")
    assert both.of("limited") == ["upgrade"] and both.of("wrong") == []
    assert f"refused with {status}: " in both.says("upgrade") and meaning in both.says("upgrade")
    assert both.needs("upgrade") == ["open", "websocket", "continuation"] and both.checks["http"]["state"] == "ok"
    assert alone.of("wrong") == ["upgrade"]


def test_the_last_line_says_what_is_missing(here: Command, server: LocalServer) -> None:
    """For people, where calls work with a limit."""
    with server.fault(faults.RefuseUpgrade(426)):
        done = here("doctor", "--base-url", server.base_url)
    *_, last = done.out.splitlines()
    assert (done.status, last) == (0, "Calls work, but there is no WebSocket, so every turn sends its whole input.")
    assert "\n" + " " * 33 + "-> Calls can go over HTTP" in done.out


def test_a_redirect_says_where_to(diagnose: Diagnose, server: LocalServer) -> None:
    """The address that the server names is told without its query."""
    headers = {"Location": f"https://there.example/v1/responses?key={SECRET}"}
    with server.fault(faults.RefuseUpgrade(307, headers=headers)):
        report = diagnose(server.base_url)
    assert "leads on to https://there.example/v1/responses." in report.advises("upgrade")


@pytest.mark.parametrize(("code", "says"), [(1008, "closed with 1008: refused after all"), (1011, "with code 1011")])
def test_a_close_behind_the_upgrade(diagnose: Diagnose, server: LocalServer, code: int, says: str) -> None:
    """Not a refused upgrade: it was answered with 101."""
    with server.fault(faults.CloseAfterUpgrade(code, f"no {SECRET}")):
        report = diagnose(server.base_url, key="local-key")
    assert report.of("limited") == ["open"] and report.checks["upgrade"]["state"] == "ok"
    assert "answered with 101, and then" in report.says("open") and says in report.says("open")


def test_a_server_that_does_not_stop_talking(diagnose: Diagnose) -> None:
    """What it says unasked is no close, and keeps nobody longer than the check lasts."""

    def script(wire: Wire) -> None:
        with suppress(OSError):
            while not wire.gone.is_set():
                wire.send({"type": "codex.rate_limits"})

    with WebSocketPeer([script, lambda wire: wire.cut()]) as peer:
        report = diagnose(peer.base_url, "--transport", "websocket")
    assert report.checks["open"]["state"] == "ok" and report.checks["open"]["ms"] < 3000
    assert report.of("wrong") == ["websocket"] and report.says("websocket").startswith("connection_lost: ")


def test_an_upgrade_that_is_not_answered(diagnose: Diagnose, server: LocalServer) -> None:
    """It is given up in time, and HTTP is tried."""
    with server.fault(faults.StallUpgrade()):
        report = diagnose(server.base_url, timeout=0.5)
    assert report.of("limited") == ["upgrade"] and "did not answer the upgrade in time" in report.says("upgrade")
    assert report.checks["upgrade"]["ms"] >= 450 and report.checks["http"]["state"] == "ok"


def test_a_connection_that_is_lost_with_its_first_turn(diagnose: Diagnose, server: LocalServer) -> None:
    """A gateway that upgrades and then passes nothing on."""
    with server.fault(faults.Drop(), when=lambda body: "stream" not in body):
        report = diagnose(server.base_url)
    assert report.of("limited") == ["websocket"] and report.says("websocket").startswith("connection_lost: ")
    assert report.needs("websocket") == ["continuation"]


def test_a_continuation_that_is_refused(diagnose: Diagnose, server: LocalServer) -> None:
    """A server that keeps nothing between two turns: they work, and each is sent whole."""
    refused = faults.Refuse(400, code="previous_response_not_found")
    with server.fault(refused, when=lambda body: "previous_response_id" in body) as placed:
        report = diagnose(server.base_url)
    assert placed.struck == 1 and report.of("limited") == ["continuation"]
    assert "sent whole: the server did not know the response before it" in report.says("continuation")


def test_a_second_turn_that_fails(diagnose: Diagnose, server: LocalServer) -> None:
    """What the server says of it; no call falls back from that."""
    with server.fault(faults.Refuse(500), when=lambda body: "previous_response_id" in body):
        report = diagnose(server.base_url)
    assert report.of("wrong") == ["continuation"] and "(500): The server had an error" in report.says("continuation")


def test_a_connection_that_ends_after_each_answer(diagnose: Diagnose) -> None:
    """The second turn takes a connection of its own, and says why it went in full."""

    def script(wire: Wire) -> None:
        wire.answer("One.", to=wire.read_create())
        wire.close(1000)

    with WebSocketPeer([lambda wire: wire.hold(), script, lambda wire: wire.answer("Two.", to=wire.read_create())]) as peer:
        report = diagnose(peer.base_url, "--transport", "websocket")
    assert report.of("limited") == ["continuation"] and "was gone before the second turn" in report.says("continuation")


def test_a_cut_answer_cannot_be_continued(diagnose: Diagnose, server: LocalServer) -> None:
    """That is no fault of the server: the check is left out, with the reason."""
    server.scenario = lambda body: text_response("One, two")[:-1] + [
        {"type": "response.incomplete", "response": {"id": "resp_1", "status": "incomplete", "output": [], "model": "m",
                                                     "incomplete_details": {"reason": "max_output_tokens"}}}]  # fmt: skip
    report = diagnose(server.base_url)
    assert "continuation" in report.of("skipped") and "ended by length" in report.says("continuation")


# HTTP.


def test_http_broken_while_the_websocket_works(diagnose: Diagnose, server: LocalServer) -> None:
    """Calls work, with nothing to fall back on. With HTTP alone nothing works."""
    with server.fault(faults.Refuse(500), when=lambda body: body.get("stream") is True):
        both, alone = diagnose(server.base_url), diagnose(server.base_url, "--transport", "http_sse")
    assert both.of("limited") == ["http"] and "(500): The server had an error" in both.says("http")
    assert alone.of("wrong") == ["http"] and "try again later" in alone.advises("http").lower()


@pytest.mark.parametrize(
    ("fault", "says", "advice"),
    [
        (faults.Refuse(404, code=None, message="Not here."), "provider_http_error (404): Not here.", "usually ends in /v1"),
        (faults.Refuse(403, code=None, message="Not you."), "permission_denied (403): Not you.", "what the key may do"),
        (faults.Refuse(429, code="rate_limit_exceeded"), "rate_limited (429): ", "again later"),
        (faults.Refuse(429, code="insufficient_quota"), "quota_exceeded (429): ", "plan and billing"),
        (faults.Refuse(404, code="model_not_found"), "model_not_supported (404): ", "--model"),
        (faults.Drop(), "connection_lost: ", "ends connections"),
        (faults.Refuse(422, code=None, message="x" * 900), f"provider_http_error (422): {'x' * 300}…", "what the server says"),
    ],
)  # fmt: skip
def test_what_a_failed_call_means(
    diagnose: Diagnose, server: LocalServer, fault: faults.Fault, says: str, advice: str
) -> None:
    """The server's word, and what follows from its kind."""
    with server.fault(fault):
        report = diagnose(server.base_url, "--transport", "http_sse")
    assert report.of("wrong") == ["http"] and report.says("http").startswith(says) and advice in report.advises("http")


def test_a_server_that_says_nothing(diagnose: Diagnose) -> None:
    """It takes every connection, and never answers: both legs are given up in time."""
    with WebSocketPeer(lambda wire: wire.hold(), upgrade=False) as peer:
        report = diagnose(peer.base_url, timeout=0.3)
    assert report.of("limited") == ["upgrade"] and report.of("wrong") == ["http"]
    assert "did not answer the upgrade in time" in report.says("upgrade")
    assert report.says("http").startswith("total_timeout: ") or report.says("http").startswith("first_event_timeout: ")
    assert 250 <= report.checks["upgrade"]["ms"] < 2000 and 800 <= report.checks["http"]["ms"] < 5000


def test_something_else_than_the_api(diagnose: Diagnose) -> None:
    """A login page, for example."""

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(200, "<html>Please log in</html>", {"content-type": "text/html"})

    with ScriptedPeer(script) as peer:
        report = diagnose(peer.base_url)
    assert report.of("wrong") == ["http"] and "login page" in report.advises("http") and "log in" not in report.done.out


# How events come.


def test_events_that_come_as_they_are_written(diagnose: Diagnose, server: LocalServer) -> None:
    """With time between them there is something to see."""
    with server.fault(faults.Delays(0.01)):
        report = diagnose(server.base_url)
    assert report.of("ok") == list(ALL) and report.says("streaming").startswith("events come as they are written; websocket: ")


def test_events_that_are_held_back(diagnose: Diagnose, server: LocalServer) -> None:
    """Over HTTP a long silence, then everything at once."""
    events = text_response("One ", "two ", "three ", "four ", "five")
    server.scenario = lambda body: [Delay(0.6), Together(*events)] if body.get("stream") else None
    report = diagnose(server.base_url)
    assert report.of("limited") == ["streaming"] and report.says("streaming").startswith("held back (http): ")


# What is shown, and how it ends.


def test_a_package_that_is_missing(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is tried; the advice is the command that helps."""
    monkeypatch.setattr(place, "_CORE", ("requests", "no-such-package"))
    report = diagnose("https://api.example/v1")
    assert report.of("wrong") == ["packages"] and report.advises("packages").endswith("pip install no-such-package")
    assert report.needs("packages") == ["settings", "key", *WAY, *WEBSOCKET, "http", "streaming"]


def test_without_the_extra_of_the_embedded_server(here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """--local says which extra it needs."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for name in [name for name in sys.modules if name.startswith(("pixir_sync.local.", "aiohttp."))]:
        monkeypatch.delitem(sys.modules, name)
    report = read(here("doctor", "--local", "--json"))
    assert report.of("wrong") == ["settings"] and "local" in report.advises("settings")


def test_a_wrong_setting(diagnose: Diagnose) -> None:
    """What Provider refuses is told in its words; nothing that needs it is tried."""
    report = diagnose("gopher://host")
    assert report.of("wrong") == ["settings"] and "base_url must begin with http:// or https://" in report.says("settings")


def test_nothing_secret_is_shown(here: Command, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that repeats the key wherever it can: at the upgrade, in a close, in an error. And a key in the base URL."""
    said = f"You said {SECRET}"
    echoes: list[faults.Fault] = [
        faults.RefuseUpgrade(400, body={"error": {"message": said}}, headers={"X-Said": SECRET, "Location": f"/{SECRET}"}),
        faults.RefuseUpgrade(307, headers={"Location": f"/{SECRET}"}),
        faults.CloseAfterUpgrade(1011, said),
        faults.Refuse(500, message=said, headers={"X-Said": SECRET}),
        faults.Refuse(401, code="invalid_api_key", message=said),
        faults.Drop(code=1011, reason=said),
    ]
    shown = ""
    for fault in echoes:
        with LocalServer(api_key=SECRET, faults=[fault]) as other:
            for more in ([], ["--json"]):
                done = here("doctor", "--base-url", f"{other.base_url}?key={SECRET}", *more, key=SECRET)
                shown += done.out + done.err
    assert "wombat" not in shown and shown.count("[credential]") >= 3


def test_what_a_server_says_cannot_move_the_cursor(here: Command, server: LocalServer) -> None:
    """Control characters of its messages are left out, and newlines too."""
    with server.fault(faults.Refuse(500, message="a\x1b[2J\nb")):
        done = here("doctor", "--base-url", server.base_url, "--transport", "http_sse")
    assert "a[2J b" in done.out and "\x1b" not in done.out


def test_an_interrupt_ends_it_in_one_line(env: dict[str, str]) -> None:
    """In the middle of a wait: at once, with the check that it was at, without a traceback."""
    stall = faults.StallUpgrade()
    with LocalServer(faults=[stall]) as server:
        process = start(env, "doctor", "--base-url", server.base_url)
        assert reached(stall.pause)
        process.send_signal(signal.SIGINT)
        done = ended(process)
    assert (done.status, done.err) == (130, "pixir-sync: interrupted at the check upgrade\n")


def test_an_interrupt_within_a_call(env: dict[str, str]) -> None:
    """The same there; with --json nothing is written to stdout."""
    pause = Pause()
    with LocalServer(scenario=lambda body: [pause]) as server:
        process = start(env, "doctor", "--json", "--base-url", server.base_url)
        assert reached(pause)
        process.send_signal(signal.SIGINT)
        done = ended(process)
    assert (done.status, done.out, done.err) == (130, "", "pixir-sync: interrupted at the check websocket\n")


def test_on_a_terminal_it_is_coloured_and_wrapped(env: dict[str, str]) -> None:
    """States have colours, and no line is longer than the screen is wide."""
    with Terminal(env, "doctor", "--base-url", refused_url()) as terminal:
        assert terminal.status() == 1
        shown = terminal.shown
    assert "\x1b[32mok" in shown and "\x1b[1;31mwrong" in shown
    texts = [line for line in shown.replace("\r", "\n").split("\n") if "tcp" in line]
    assert texts and all(len(line) < 120 for line in texts)


def test_a_reader_that_leaves(env: dict[str, str]) -> None:
    """As under ``| head -1``: no traceback, no message."""
    with start(env, "doctor", "--local") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("ok       python")
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == ""


@pytest.mark.parametrize("value", ["0", "nan", "601", "soon"])
def test_a_timeout_that_is_none(here: Command, value: str) -> None:
    """A wrong call, answered with the usage."""
    assert here("doctor", "--local", "--timeout", value).status == 2
