"""Where a setting comes from: argument, environment, configuration file, built-in; for every option that has these."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from pixir_sync import InvalidRequest, Keepalive, Network, PoolOptions, Provider, ProviderConfig, RetryPolicy, Timeouts
from pixir_sync.catalog import DEFAULT_MODEL
from pixir_sync.config_file import SECTIONS
from pixir_sync.local import LocalServer
from pixir_sync.sources import VARIABLES, resolve
from tests.support.fake import provider_for


@dataclass(frozen=True)
class Option:
    """One option: a value and its text for each source. ``variable``: None where the environment has none for it."""

    name: str
    argument: Any
    variable: str | None
    environment: str
    file: str
    filed: Any
    built_in: Any
    section: str = "pixir"


OPTIONS = [
    Option("model", "arg", "PIXIR_MODEL", "env", "file", "file", DEFAULT_MODEL),
    Option("transport", "auto", "PIXIR_TRANSPORT", "websocket", "http_sse", "http_sse", "auto"),
    Option("endpoint", "xai", "PIXIR_ENDPOINT", "vercel", "ollama", "ollama", None),
    Option("base_url", "https://arg.test", "OPENAI_BASE_URL", "https://env.test", "https://file.test", "https://file.test", None),
    Option("organization", "org-arg", "OPENAI_ORG_ID", "org-env", "org-file", "org-file", None),
    Option("project", "proj-arg", "OPENAI_PROJECT_ID", "proj-env", "proj-file", "proj-file", None),
    Option("continuation", "exact", None, "", "off", "off", "auto"),
    Option("store", False, None, "", "true", True, False),
    Option("requests_per_minute", 7, None, "", "90", 90, None),
    Option("timeouts", Timeouts(idle=7), None, "", "idle = 5", Timeouts(idle=5), Timeouts(), "pixir.timeouts"),
    Option("retry", RetryPolicy(max_retries=7), None, "", "jitter = 0", RetryPolicy(jitter=0), RetryPolicy(), "pixir.retry"),
    Option("pool", PoolOptions(max_size=7), None, "", "max_idle = 9", PoolOptions(max_idle=9), PoolOptions(), "pixir.pool"),
    Option("keepalive", Keepalive(interval=7), None, "", "timeout = 9", Keepalive(timeout=9), Keepalive(), "pixir.keepalive"),
    Option("network", Network(ca_bundle="x"), None, "", "trust_env = no", Network(trust_env=False), Network(), "pixir.network"),
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file, still empty."""
    monkeypatch.setenv("PIXIR_CONFIG", str(tmp_path / "config.ini"))
    (tmp_path / "config.ini").touch()
    return tmp_path / "config.ini"


def test_the_table_has_every_option() -> None:
    """That any other source than an argument can give."""
    names = {option.name for option in OPTIONS}
    assert names == {*SECTIONS["pixir"], *(name.removeprefix("pixir.") for name in SECTIONS if name != "pixir")}
    assert {option.name: option.variable for option in OPTIONS if option.variable} == VARIABLES


@pytest.mark.row("A23")
@pytest.mark.parametrize("sources", ["", "f", "e", "ef", "a", "af", "ae", "aef"])
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_an_order(option: Option, sources: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument, environment, file, built-in; an argument wins also where it is what is built in; a config is an argument."""
    in_environment = "e" in sources and option.variable is not None
    if in_environment:
        monkeypatch.setenv(str(option.variable), f" {option.environment} ")
    if "f" in sources:
        lone = option.section == "pixir"
        file.write_text(f"[{option.section}]\n{option.name + ' = ' if lone else ''}{option.file}\n")
    below = option.environment if in_environment else option.filed if "f" in sources else option.built_in
    wanted = option.argument if "a" in sources else below
    provider = Provider(**({option.name: option.argument} if "a" in sources else {}))
    assert getattr(provider.config, option.name) == wanted
    assert pickle.loads(pickle.dumps(provider)).config == provider.config
    if "a" in sources and option.argument != option.built_in:  # in a config what is built in says nothing
        assert getattr(resolve({"config": ProviderConfig(**{option.name: option.argument})}), option.name) == wanted


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.variable], ids=lambda option: option.name)
def test_what_is_blank_says_nothing(option: Option, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blank variable, an argument of None, an empty line."""
    monkeypatch.setenv(str(option.variable), "  ")
    file.write_text(f"[pixir]\n{option.name} =\n")
    given = {} if option.name == "transport" else {option.name: None}
    assert getattr(resolve(given), option.name) == option.built_in


@pytest.mark.row("A23")
def test_the_default_model_is_what_the_server_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever it comes; a call's own wins over all."""
    file.write_text("[pixir]\nmodel = from file\n")
    with LocalServer() as server:
        for variable in ("", "from env"):
            monkeypatch.setenv("PIXIR_MODEL", variable)
            with provider_for(server, model=None) as provider:
                assert provider.default_model() == (variable or "from file")
                provider.complete("Hi")
                provider.complete("Hi", model="own")
        assert [request.body["model"] for request in server.requests] == ["from file", "own", "from env", "own"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("PIXIR_TRANSPORT", "websockets", "PIXIR_TRANSPORT must be one of .*; did you mean 'websocket'"),
        ("PIXIR_ENDPOINT", "olama", "PIXIR_ENDPOINT must be one of .*; did you mean 'ollama'"),
        ("OPENAI_ORG_ID", "örg", "OPENAI_ORG_ID must hold ASCII"),
        ("OPENAI_PROJECT_ID", "a\tb", "OPENAI_PROJECT_ID must not hold"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_refused_by_its_name(name: str, text: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the provider is made; what cannot be had is, too."""
    monkeypatch.setenv(name, text)
    with pytest.raises(InvalidRequest, match=f"^{says}"):
        Provider()
    monkeypatch.setenv(name, "websocket")
    if name == "PIXIR_TRANSPORT":
        with pytest.raises(InvalidRequest, match="^PIXIR_TRANSPORT: the endpoint ollama offers no WebSocket"):
            Provider(endpoint="ollama")


def test_the_endpoint_and_the_url_come_from_one_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no key goes to a place that another source named."""
    file.write_text("[pixir]\nendpoint = litellm\nbase_url = https://file.test/v1\n")
    assert (resolve({}).endpoint, resolve({}).url) == ("litellm", "https://file.test/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://env.test/v1")
    assert (resolve({}).endpoint, resolve({}).url) == (None, "https://env.test/v1")
    monkeypatch.setenv("PIXIR_ENDPOINT", "vllm")
    assert (resolve({}).endpoint, resolve({}).url) == ("vllm", "https://env.test/v1")
    monkeypatch.setenv("PIXIR_ENDPOINT", "xai")
    assert (resolve({}).endpoint, resolve({}).url) == ("xai", "https://api.x.ai/v1"), "a service is where it is"
    assert (resolve({"endpoint": "vllm"}).endpoint, resolve({"endpoint": "vllm"}).url) == ("vllm", "http://localhost:8000/v1")
    mine = resolve({"base_url": "https://arg.test/v1"})
    assert (mine.endpoint, mine.url) == (None, "https://arg.test/v1")


def test_an_organisation_of_the_environment_is_openais(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to OpenAI, and to what is said to be it; an argument is sent anywhere."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-env")
    file.write_text("[pixir]\nproject = proj-file\n")
    places: list[tuple[dict[str, Any], bool]] = [
        ({}, True), ({"endpoint": "openai"}, True), ({"base_url": "https://eu.api.openai.com/v1"}, True),
        ({"endpoint": "openai", "base_url": "https://gateway.test/v1"}, True), ({"base_url": "https://gateway.test/v1"}, False),
        ({"endpoint": "xai"}, False), ({"endpoint": "chatgpt"}, False), ({"base_url": "http://localhost:11434/v1"}, False),
    ]  # fmt: skip
    for options, own in places:
        config = resolve(options)
        assert (config.organization, config.project) == (("org-env", "proj-file") if own else (None, None)), options
        assert resolve({**options, "organization": "mine"}).organization == "mine"
    with LocalServer() as server, provider_for(server, endpoint="openai", transport="http_sse") as provider:
        provider.complete("Hi")
        sent = server.requests.only.headers
        assert (sent["openai-organization"], sent["openai-project"]) == ("org-env", "proj-file")


def test_a_part_of_a_setting_lies_over_the_file(file: Path) -> None:
    """A mapping or a number names a field, and the file keeps its say on the others; an object has all fields."""
    file.write_text("[pixir.timeouts]\nconnect = 5\nidle = 50\n[pixir.retry]\njitter = 0\n[pixir.pool]\nmax_size = 3\n")
    assert resolve({"timeouts": {"idle": 7}}).timeouts == resolve({"timeouts": 7}).timeouts == Timeouts(connect=5, idle=7)
    assert resolve({"retry": 4}).retry == RetryPolicy(max_retries=4, jitter=0)
    assert resolve({"timeouts": Timeouts(), "pool": PoolOptions()}).timeouts == Timeouts()
    assert resolve({"pool": PoolOptions()}).pool == PoolOptions()
    assert resolve({"endpoint": "xai"}).pool == replace(PoolOptions(), max_size=3, max_lifetime=1250)


def test_a_pickled_provider_does_not_look_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration was settled when it was made."""
    file.write_text("[pixir]\nmodel = first\ntransport = sse\n")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-first")
    data = pickle.dumps(Provider())
    file.write_text("[pixir]\nnonsense\n")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-second")
    config = pickle.loads(data).config
    assert (config.model, config.transport, config.organization) == ("first", "sse", "org-first")


def test_an_argument_of_none_says_nothing(file: Path) -> None:
    """Where None is what is built in; not even over a config: a wrapper that passes its own None on sends no key elsewhere."""
    config = ProviderConfig(model="m", api_key="k", base_url="https://gateway.test/v1", timeouts=Timeouts(idle=7))
    nothing: dict[str, Any] = {f.name: None for f in fields(ProviderConfig) if f.default is None}
    made = resolve({**nothing, "config": config})
    assert (made.model, made.api_key, made.url, made.timeouts.idle) == ("m", "k", "https://gateway.test/v1", 7)
    assert resolve({**nothing, "config": None}) == resolve({})
    with pytest.raises(InvalidRequest, match="unknown option 'modle'"):
        resolve({"modle": None})


def test_a_config_may_hold_the_short_forms(file: Path) -> None:
    """A number or a mapping, as an argument may; an argument's mapping lies over the config's fields, and those over the file."""
    file.write_text("[pixir.timeouts]\nconnect = 5\n")
    loose: Any = {"timeouts": 5, "pool": {"max_size": 2}, "network": {"trust_env": False}}
    config = ProviderConfig(**loose)
    made = resolve({"config": config, "timeouts": {"total": 9}})
    assert made.timeouts == Timeouts(idle=5, total=9) and made.pool.max_size == 2 and not made.network.trust_env
    wrong: Any = {"pool": 5}
    with pytest.raises(InvalidRequest, match="^pool must be"):
        resolve({"config": ProviderConfig(**wrong)})


@pytest.mark.parametrize(
    ("websocket", "http"),
    [
        ("wss://gateway.test/v1/responses", "https://gateway.test/v1/responses"),
        ("WSS://gateway.test/v1/responses/", "https://gateway.test/v1/responses"),
        ("wss://gateway.test/v1/responses?model=m", "https://gateway.test/v1/responses?model=m"),
        ("wss://gateway.test/socket?a=b", "https://gateway.test/socket?a=b"),
        ("ws://localhost:8000/responses", "http://localhost:8000/responses"),
    ],
)
def test_a_websocket_url_by_itself_is_the_place(
    websocket: str, http: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same server's HTTP stands in for it; another place of the environment does not count, nor its organisation."""
    for name, text in {"PIXIR_ENDPOINT": "xai", "OPENAI_BASE_URL": "https://env.test/v1", "OPENAI_ORG_ID": "org"}.items():
        monkeypatch.setenv(name, text)
    made = resolve({"websocket_url": websocket})
    assert (made.address("/responses"), made.service, made.organization) == (http, "", None)
    own = resolve({"websocket_url": websocket, "endpoint": "openai"})
    assert (own.service, own.organization) == ("openai", "org")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"websocket_url": "wss://api.x.ai/v1/responses", "endpoint": "openai"}, "xai, and the endpoint given is openai"),
        ({"websocket_url": "wss://api.x.ai/v1/responses", "base_url": "https://a.test/v1"}, "and base_url is another server's"),
        ({"base_url": "https://chatgpt.com/backend-api/codex", "endpoint": "xai"}, "chatgpt, and the endpoint given is xai"),
        ({"base_url": "https://openrouter.ai./api/v1", "endpoint": "openai"}, "endpoint openrouter, and"),
        ({"organization": " org"}, "^organization begins or ends with white space"),
        ({"originator": "me "}, "^originator begins or ends with white space"),
    ],
)
def test_one_services_url_under_anothers_name_is_refused(options: dict[str, Any], says: str, file: Path) -> None:
    """Its key would go there. And what no header can carry is refused when the provider is made."""
    with pytest.raises(InvalidRequest, match=says):
        resolve(options)


@pytest.mark.parametrize(
    ("text", "url"),
    [("https://me.openai.azure.com?a=b", "https://me.openai.azure.com/openai/v1?a=b"), ("https://[x", None), ("nonsense", None)],
)
def test_azures_variable_is_a_url(text: str, url: str | None, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query stays behind the path; what is no URL is refused by the variable's name."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", text)
    if url is not None:
        assert resolve({"endpoint": "azure"}).url == url
        return
    with pytest.raises(InvalidRequest, match="^AZURE_OPENAI_ENDPOINT is no URL"):
        resolve({"endpoint": "azure"})
