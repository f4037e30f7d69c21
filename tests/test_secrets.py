"""Nothing secret is shown: the words below go in and come back, and are searched for in everything that a program may print."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping

import pytest

from pixir_sync import Network, PixirError, Provider, ProviderError, Request, user
from pixir_sync.local import Close, HttpError, LocalServer, NotJson, Step, faults
from pixir_sync.protocol.continuation import Delta
from pixir_sync.protocol.result import Result
from tests.support.both import Peer, TransportName
from tests.support.events import Json, failed, function_call_response, text_response
from tests.support.fake import FakeTransport, provider_for
from tests.support.proxy import ConnectProxy
from tests.support.ws_peer import WebSocketPeer, Wire

KEY, TOKEN, ACCOUNT = "sk-" + "quagga" * 3, "tok-" + "okapi" * 3, "acct-" + "dugong" * 3
PROMPT, ANSWER, PROXY = "prompt-" + "numbat" * 2, "answer-" + "bilby" * 2, "pw-" + "tapir" * 3
WORDS = ("quagga", "okapi", "dugong", "numbat", "bilby", "tapir")


class Account:
    """A credential with a token and an account id."""

    identity = "x"

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {TOKEN}", "chatgpt-account-id": ACCOUNT}


class Everything(logging.Handler):
    """Keeps every record, its arguments and its exception as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self.lines.append(f"{record.name} {record.getMessage()} {record.args!r} {error}")


@pytest.fixture
def log() -> Iterator[list[str]]:
    """All that is logged at DEBUG, by the libraries below, too."""
    handler, root = Everything(), logging.getLogger()
    names = ["pixir_sync", "urllib3", "urllib3.connectionpool", "requests", "sseclient", "websocket", "asyncio"]
    before = {name: logging.getLogger(name).level for name in ["root", *names]}
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield handler.lines
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name if name != "root" else None).setLevel(level)


def clean(*shown: object) -> None:
    """None of the words is in what is shown."""
    text = "\n".join(map(str, shown))
    for word in WORDS:
        assert word not in text, f"{word} is in ...{text[max(0, text.index(word) - 200) : text.index(word) + 50]}"


def shown_of(error: PixirError) -> list[object]:
    """What a program prints of an error: all but the provider's own message and body."""
    details = {name: value for name, value in error.details.items() if name != "body"}
    return [repr(error), error.code, details, repr(error.partial), error.partial and error.partial.provider_metadata]


WHOLE = text_response(ANSWER)
SPOILT: dict[TransportName, list[Step]] = {
    "websocket": [NotJson(f"{{{ANSWER}".encode())],
    "http_sse": [
        NotJson(f"{{{ANSWER}".encode()),
        f"event: response.odd\ndata: {{{ANSWER}\n\n{ANSWER}: {ANSWER}\n\nid: {ANSWER}\n\n".encode(),
    ],
}
REPLIES: dict[str, Callable[[TransportName], list[Step]]] = {
    "text": lambda transport: [*WHOLE],
    "malformed": lambda transport: [*WHOLE[:5], *SPOILT[transport], *WHOLE[5:]],
    "call": lambda transport: [*function_call_response("f", {"a": ANSWER})],
}

REQUEST: Json = {"system_prompt": PROMPT, "developer_context": PROMPT, "metadata": {"a": PROMPT}, "user": PROMPT,
                 "tools": [{"name": "f", "description": PROMPT}], "extra_body": {"x": PROMPT}}  # fmt: skip


@pytest.mark.row("A26")
@pytest.mark.parametrize(
    ("option", "bearer"),
    [({"api_key": KEY}, KEY), ({"credential": Account()}, TOKEN), ({"api_key": lambda: KEY}, KEY)],
    ids=["key", "account", "callable"],
)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_call_that_succeeds_shows_nothing(
    transport: TransportName, log: list[str], option: Json, bearer: str, reply: str
) -> None:
    """Reprs of all that it made, the log, the statistics, the evidence."""
    network = Network(trust_env=False, headers={"X-Api-Key": KEY})
    with Peer(transport, REPLIES[reply](transport), api_key=bearer) as peer, peer.provider(network=network, **option) as provider:
        stream = provider.stream([user(PROMPT)], headers={"X-Key": TOKEN}, session="s", **REQUEST)
        before = repr(stream)
        events = list(stream)
        result = stream.result()
        assert peer.heads.only.headers["X-Api-Key"] == KEY and PROMPT in str(peer.bodies)
        clean(before, stream, repr(events), repr(result), result.provider_metadata, stream.metadata)
        clean(repr(result.function_calls), provider, repr(provider.config), repr(vars(provider)), provider.stats())
        clean(repr(vars(provider._http)), repr(provider._websocket and vars(provider._websocket)))
        clean(repr(network), repr(provider.config.credentials()), repr(Request(history=PROMPT, system_prompt=PROMPT)))
    assert transport == "websocket" or any(line.startswith("urllib3") for line in log), "the test listens"
    clean(*log)


@pytest.mark.row("A26")
def test_what_a_transport_gets_prints_without_its_content() -> None:
    """A transport of the caller's own may log the call that it is given: the body, the headers and the credential stay out."""
    fake = FakeTransport([text_response(ANSWER)])
    with Provider(transport=fake, model="m", api_key=KEY) as provider:
        provider.complete(PROMPT, session="s", headers={"X-Key": TOKEN}, **REQUEST)
        call = fake.calls[0]
        assert call.authorize()["Authorization"] == f"Bearer {KEY}" and call.secrets
    clean(call, call.body, call.cancel, call.evidence, call.assembler, Delta([user(PROMPT)], "resp_1", 1))


def option_of(secrets: tuple[str, ...]) -> Json:
    return {"api_key": KEY} if secrets == (KEY,) else {"credential": Account()}


def echo(secrets: tuple[str, ...]) -> Json:
    """An error of a server that gives the credential back wherever it can."""
    said = " ".join(secrets)
    return {"error": {"message": f"bad key {said}, Bearer {said}", "code": secrets[0], "type": secrets[-1], "param": secrets[0]}}


def reply_of(name: str, secrets: tuple[str, ...]) -> list[Step]:
    said = " ".join(secrets)
    replies: dict[str, list[Step]] = {
        "lost": [*WHOLE[:5], Close()],
        "401": [HttpError(401, echo(secrets))],
        "400": [HttpError(400, echo(secrets))],
        "500": [HttpError(500, f"<html>{said}</html>".encode(), {"content-type": "text/html"})],
        "no stream": [HttpError(200, ANSWER.encode(), {"content-type": "text/plain"})],
        "error": [*WHOLE[:-1], {"type": "error", **echo(secrets)}],
        "failed": [*WHOLE[:-1], failed(secrets[0], said)],
    }
    return replies[name]


@pytest.mark.row("A26")
@pytest.mark.parametrize("secrets", [(KEY,), (TOKEN, ACCOUNT)], ids=["key", "account"])
@pytest.mark.parametrize("name", ["lost", "401", "400", "500", "no stream", "error", "failed"])
def test_a_call_that_fails_shows_nothing(transport: TransportName, log: list[str], secrets: tuple[str, ...], name: str) -> None:
    """The error, its traceback, the log, the statistics; a server that echoes the credential is no exception."""
    with Peer(transport, reply_of(name, secrets), api_key=secrets[0]) as peer, peer.provider(**option_of(secrets)) as provider:
        error = failing(provider)
        assert error.partial is not None and error.partial.text == (ANSWER if name in ("lost", "error", "failed") else "")
    clean(*log)


def failing(provider: Provider) -> PixirError:
    """The error of a call, nothing of which shows."""
    stream = provider.stream(PROMPT, **REQUEST)
    with pytest.raises(PixirError) as caught:
        stream.result()
    error = caught.value
    clean(*shown_of(error), error.message, error.to_dict(), error.__cause__, error.__context__)
    clean("".join(traceback.format_exception(error)), stream, provider.stats())
    return error


@pytest.mark.row("A26")
@pytest.mark.parametrize("secrets", [(KEY,), (TOKEN, ACCOUNT)], ids=["key", "account"])
@pytest.mark.parametrize("status", [401, 403, 426, 429, 500])
def test_an_upgrade_that_is_refused_shows_nothing(log: list[str], secrets: tuple[str, ...], status: int) -> None:
    """Neither its headers nor its body."""
    said = " ".join(secrets)
    refusal = faults.RefuseUpgrade(status, echo(secrets) if status < 500 else f"<html>{said}</html>".encode(), {"X-Echo": said})
    with LocalServer(api_key=secrets[0]) as server, server.fault(refusal):
        with provider_for(server, transport="websocket", retry=0, **option_of(secrets)) as provider:
            failing(provider)
    clean(*log)


@pytest.mark.row("A26")
@pytest.mark.parametrize("secrets", [(KEY,), (TOKEN, ACCOUNT)], ids=["key", "account"])
@pytest.mark.parametrize("name", ["closed", "closed as refused", "no event"])
def test_a_websocket_that_fails_shows_nothing(log: list[str], secrets: tuple[str, ...], name: str) -> None:
    """Neither the reason of a close frame nor what is no event."""
    said = " ".join(secrets)
    steps: dict[str, list[Step]] = {
        "closed": [Close(1011, said)],
        "closed as refused": [Close(1008, said)],
        "no event": [NotJson(f"{{{said}".encode()), {"type": "error", "error": said}],
    }
    with Peer("websocket", steps[name], api_key=secrets[0]) as peer, peer.provider(retry=0, **option_of(secrets)) as provider:
        failing(provider)
        assert len(peer.bodies) == 1
    clean(*log)


@pytest.mark.row("A26")
@pytest.mark.parametrize("secrets", [(KEY,), (TOKEN, ACCOUNT)], ids=["key", "account"])
def test_what_is_no_frame_shows_nothing(log: list[str], secrets: tuple[str, ...]) -> None:
    """Bytes that break the framing stay out of everything, too."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.raw(b"\xff" + " ".join(secrets).encode())
        wire.expect_closed()

    with WebSocketPeer(script) as peer, provider_for(peer, transport="websocket", retry=0, **option_of(secrets)) as provider:
        failing(provider)
    clean(*log)


@pytest.mark.row("A26")
def test_a_message_that_quotes_the_request_stays_out_of_the_log(transport: TransportName, log: list[str]) -> None:
    """The provider's words are in the message and the body, where they belong, and nowhere else."""
    said = {"error": {"message": f"the word {PROMPT} is not allowed", "code": "bad_word"}}
    with Peer(transport, [HttpError(500, said)], api_key=KEY) as peer, peer.provider() as provider:
        with pytest.raises(ProviderError, match=PROMPT) as caught:
            provider.complete(PROMPT)
        assert len(peer.bodies) == 3, "the log had two retries to speak of"
        clean(*shown_of(caught.value), provider.stats(), *log)


@pytest.mark.row("A26")
@pytest.mark.parametrize(
    "wrong",
    [{"request": [{"role": PROMPT, "content": PROMPT}]}, {"request": [PROMPT]}, {"metadata": {"a": PROMPT * 100}},
     {"request": [{"type": "function_call", "call_id": PROMPT + "!"}]}, {"prompt_cache_key": PROMPT + " "},
     {"temperature": PROMPT}, {"tool_choice": PROMPT}, {"conversation": {"x": PROMPT}}, {"headers": {"X-A": KEY + "\n"}},
     {"service_tier": PROMPT}, {"previous_response_id": PROMPT + "\n"}, {"on_payload": PROMPT}, {"cancel": PROMPT},
     {"session": {"x": PROMPT}}, {"timeouts": PROMPT}, {"timeouts": {"idle": PROMPT}}, {"extra_body": {"input": PROMPT}},
     {"output_schema": {"name": PROMPT + "!", "schema": {}}}, {"hosted_tools": [{"type": "function", "x": PROMPT}]}],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_a_refused_argument_is_not_quoted(wrong: Json) -> None:
    """The message names the field and leaves out what stood in it."""
    with Provider(model="m", api_key=KEY) as provider, pytest.raises(PixirError) as caught:
        provider.stream(**{"request": PROMPT, **wrong})
    clean(caught.value.message, caught.value.to_dict(), repr(caught.value), "".join(traceback.format_exception(caught.value)))


@pytest.mark.row("A26")
@pytest.mark.parametrize(
    "make",
    [lambda: Provider(api_key=KEY + "\n"), lambda: Provider(base_url=f"https://user:{PROXY}@host/v1"),
     lambda: Provider(network=Network(proxy=f"ftp://user:{PROXY}@host:1")),
     lambda: Provider(network={"headers": {"X-Key": KEY + "\n"}}),
     lambda: Provider(organization=ACCOUNT + "\n"), lambda: Provider(model="m", timeouts=KEY)],
)  # fmt: skip
def test_a_refused_option_is_not_quoted(make: Callable[[], object]) -> None:
    """Neither keys nor the passwords of URLs come back in a message."""
    with pytest.raises(PixirError) as caught:
        make()
    clean(caught.value.message, repr(caught.value), "".join(traceback.format_exception(caught.value)))


@pytest.mark.row("A26")
def test_an_unreachable_proxy_is_named_without_its_password(log: list[str]) -> None:
    """A connection that fails through a proxy with a password shows neither it nor the key."""
    network = Network(trust_env=False, proxy=f"http://user:{PROXY}@127.0.0.1:9")
    with Provider(base_url="https://host.invalid/v1", model="m", api_key=KEY, network=network, retry=0) as provider:
        with pytest.raises(PixirError) as caught:
            provider.complete(PROMPT)
        clean(*shown_of(caught.value), caught.value.message, repr(provider), repr(provider.config), *log)


@pytest.mark.row("A26")
def test_results_print_without_their_text(transport: TransportName) -> None:
    """The repr of a result, of a call and of a usage; str is what prints the text."""
    with Peer(transport, text_response(ANSWER)) as peer, peer.provider() as provider:
        result = provider.complete(PROMPT)
    clean(repr(result), repr([result]), repr(Result(text=ANSWER)))
    assert str(result) == ANSWER


@pytest.mark.row("A26")
@pytest.mark.parametrize("proxied", [False, True])
def test_a_key_in_the_query_of_a_base_stays_out_of_the_log(
    transport: TransportName, log: list[str], proxied: bool
) -> None:
    """The libraries log what they ask for: what of that is ours without its query, and other programs' lines as ever."""
    with LocalServer() as server, ConnectProxy() as proxy:
        network = Network(trust_env=False, proxy=proxy.url if proxied else None)
        with provider_for(server, base_url=f"{server.base_url}?api-key={KEY}", transport=transport, network=network) as provider:
            provider.complete("Hi")
            provider.models()
            with pytest.raises(PixirError):
                provider.retrieve("resp_none")
        assert {recorded.query for recorded in server.requests[-2:]} == {f"api-key={KEY}"}
    assert [line for line in log if "/v1/models" in line] and not [line for line in log if "quagga" in line]
    logging.getLogger("urllib3.connectionpool").debug('"%s %s"', "GET", "/theirs?a=1")
    assert "/theirs?a=1" in log[-1]
