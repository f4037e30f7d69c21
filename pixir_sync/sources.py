"""Where the settings of a `Provider` come from: `resolve` puts them together and checks them.

Rules kept here:

* For each option the argument counts, then the environment, then the configuration file, then what is built in. A blank variable,
  an empty line and, where None is built in, an argument of None say nothing.
* The endpoint and the base URL are one place: both come from the first of these that names either of them.
* An organisation and a project of the environment or the file are OpenAI's, and are sent there only.
* What was resolved is the whole configuration: a pickled provider does not look again, but for a key of the environment.
* An error names where the value stood: the argument, the variable, or the file and its line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlsplit

from pixir_sync.catalog import DEFAULT_MODEL
from pixir_sync.config import BASE_VARIABLE, TRANSPORTS, Keepalive, Network, PoolOptions, ProviderConfig, Timeouts
from pixir_sync.config_file import ConfigFile, read
from pixir_sync.credentials import check_credential
from pixir_sync.endpoints import PRESETS, owner
from pixir_sync.protocol.checks import choice, plain_text
from pixir_sync.protocol.checks import text as check_text
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.request import unknown_name
from pixir_sync.protocol.retry import RetryPolicy, non_negative
from pixir_sync.urls import check_base, check_url, split

__all__ = ["VARIABLES", "resolve", "setting"]

VARIABLES = {
    "model": "PIXIR_MODEL", "transport": "PIXIR_TRANSPORT", "endpoint": "PIXIR_ENDPOINT", "base_url": BASE_VARIABLE,
    "organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID",
}  # fmt: skip
"""The options that a variable of the environment can give."""

AZURE_VARIABLE = "AZURE_OPENAI_ENDPOINT"
_DEFAULTS = {f.name: f.default for f in fields(ProviderConfig)}
_SHORTHAND: dict[str, tuple[type[Any], str | None]] = {
    "timeouts": (Timeouts, "idle"),
    "retry": (RetryPolicy, "max_retries"),
    "keepalive": (Keepalive, None),
    "pool": (PoolOptions, None),
    "network": (Network, None),
}
_PLACE, _OPENAIS = ("endpoint", "base_url"), ("organization", "project")
_FREE = ("model", "transport", "continuation", "store", "requests_per_minute")


def setting(name: str, value: Any, under: Mapping[str, Any] | None = None) -> Any:
    """A setting that may be given as its class, a mapping of its fields, or (timeouts, retry) one number.

    ``under``: what the file says of the fields that the last two do not name.
    """
    kind, single = _SHORTHAND[name]
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        known = [f.name for f in fields(kind)]
        for key in value:
            if key not in known:
                raise unknown_name(f"field of {name}", str(key), known)
        return kind(**{**(under or {}), **value})
    if single is not None and isinstance(value, (int, float)) and not isinstance(value, bool):
        return kind(**{**(under or {}), single: value})
    raise InvalidRequest(f"{name} must be {kind.__name__}{' or a number' if single else ''}, not {type(value).__name__}")


def resolve(options: Mapping[str, Any]) -> ProviderConfig:
    """The configuration that `Provider`'s options make. Raises `InvalidRequest` that names the option and the nearest one."""
    for name in options:
        if name not in _DEFAULTS and name != "config":
            raise unknown_name("option", name, [*_DEFAULTS, "config"])
    given = {name: value for name, value in options.items() if value is not None or _DEFAULTS.get(name) is not None}
    config = given.pop("config", ProviderConfig())
    if not isinstance(config, ProviderConfig):
        raise InvalidRequest(f"config must be a ProviderConfig, not {type(config).__name__}")
    config = replace(config, **{name: setting(name, getattr(config, name)) for name in _SHORTHAND})
    file = read()
    for name in given.keys() & _SHORTHAND.keys():
        given[name] = setting(name, given[name], _under(name, config, file))
    made = _lower(replace(config, **given))
    stated = {name for name, default in _DEFAULTS.items()
              if given.get(name) is not None or getattr(made, name) != default}  # fmt: skip
    return _Sources(made, stated, file).resolved()


def _under(name: str, config: ProviderConfig, file: ConfigFile) -> dict[str, Any]:
    """What stands below an argument that gives some fields of a setting: those of ``config``, else those of the file."""
    group, default = getattr(config, name), _DEFAULTS[name]
    if group == default:
        return file.groups.get(name, {})
    return {f.name: getattr(group, f.name) for f in fields(group)}


def _lower(config: ProviderConfig) -> ProviderConfig:
    """The same with the schemes of its URLs in small letters, as they are looked at."""
    for name in ("base_url", "websocket_url"):
        url = getattr(config, name)
        if isinstance(url, str) and "://" in url:
            scheme, _, rest = url.partition("://")
            changed: dict[str, Any] = {name: f"{scheme.lower()}://{rest}"}
            config = replace(config, **changed)
    return config


class _Sources:
    """What the arguments stated, and what stands below them. ``places`` says of the options from elsewhere where they stood."""

    def __init__(self, made: ProviderConfig, stated: set[str], file: ConfigFile) -> None:
        self.made, self.stated, self.file = made, stated, file
        self.environment = {name: text for name, variable in VARIABLES.items() if (text := os.environ.get(variable, "").strip())}
        self.places: dict[str, str] = {}

    def resolved(self) -> ProviderConfig:
        for name in _SHORTHAND:
            if name not in self.stated and (said := self.file.groups.get(name)):
                self.made = replace(self.made, **{name: _SHORTHAND[name][0](**said)})
        for name in _FREE:
            self._fill(name)
        self._fill_place()
        made = self.made
        _check_place(made, self.places)
        if made.service == "openai":
            for name in _OPENAIS:
                self._fill(name)
        _check(self.made, self.places)
        return _with_limits(replace(self.made, model=(self.made.model or DEFAULT_MODEL).strip()))

    def _fill(self, name: str, *, environment: bool = True) -> None:
        """Give an option that no argument stated the value of the environment, else of the file."""
        if name in self.stated:
            return
        if environment and name in self.environment:
            self._take(name, self.environment[name], VARIABLES[name])
        elif self.file.options.get(name) is not None:
            self._take(name, self.file.options[name], self.file.places[name])

    def _take(self, name: str, value: Any, place: str) -> None:
        self.made = replace(self.made, **{name: value})
        self.places[name] = place

    def _fill_place(self) -> None:
        """The endpoint and the base URL, from one source; then Azure's resource, which has a variable of its own.

        A ``websocket_url`` by itself names the place, too.
        """
        if not self.stated & {*_PLACE} and self.made.websocket_url is not None:
            check_url("websocket_url", self.made.websocket_url, ("ws", "wss"), self.made.network.allow_insecure)
            self.made = replace(self.made, base_url=_beside(self.made.websocket_url))
        elif not self.stated & {*_PLACE}:
            of_environment = self.environment.keys() & {*_PLACE}
            for name in _PLACE:
                if name == "base_url" and name in of_environment and not _moved_by_variable(self.made.endpoint):
                    continue
                if name in of_environment or not of_environment:
                    self._fill(name, environment=bool(of_environment))
        if self.made.endpoint == "azure" and self.made.base_url is None:
            resource = os.environ.get(AZURE_VARIABLE, "").strip().rstrip("/")
            if not resource:
                raise InvalidRequest(
                    "endpoint azure: it takes the resource's URL. Give base_url='https://{resource}.openai.azure.com/openai/v1',"
                    f" or set {AZURE_VARIABLE}"
                )
            parts = split(AZURE_VARIABLE, resource)
            bare = parts.path in ("", "/openai")
            self._take("base_url", parts._replace(path="/openai/v1").geturl() if bare else resource, AZURE_VARIABLE)


def _beside(websocket_url: str) -> str:
    """The HTTP base of the server whose WebSocket this is."""
    url = "http" + websocket_url.removeprefix("ws")
    parts = urlsplit(url)
    is_api = parts.path.rstrip("/").endswith("/responses")
    return parts._replace(path=parts.path.rstrip("/").removesuffix("/responses")).geturl() if is_api else f"{url}##"


def _moved_by_variable(endpoint: str | None) -> bool:
    """Whether ``OPENAI_BASE_URL`` is meant for this endpoint: the other services are where they are, and so is their key."""
    return endpoint in (None, "openai") or (endpoint in PRESETS and PRESETS[endpoint].own_server)


def _with_limits(config: ProviderConfig) -> ProviderConfig:
    """The ages of connections that nobody set, as the endpoint allows them."""
    pool, default = config.pool, PoolOptions()
    assert default.max_lifetime is not None and default.max_idle is not None
    if pool.max_lifetime == default.max_lifetime:
        pool = replace(pool, max_lifetime=config.preset.within_age(default.max_lifetime))
    if pool.max_idle == default.max_idle:
        pool = replace(pool, max_idle=config.preset.within_idle(default.max_idle))
    return config if pool == config.pool else replace(config, pool=pool)


def _check_place(config: ProviderConfig, places: Mapping[str, str]) -> None:
    insecure = config.network.allow_insecure
    if config.endpoint is not None:
        choice(places.get("endpoint", "endpoint"), config.endpoint, tuple(PRESETS))
    if config.base_url is not None:
        named = places.get("base_url", "base_url")
        check_base(named, config.base_url, insecure)
        _check_owner(named, config.url, config.endpoint)
    if config.websocket_url is not None:
        check_url("websocket_url", config.websocket_url, ("ws", "wss"), insecure)
        _check_owner("websocket_url", "http" + config.websocket_url.removeprefix("ws"), config.service)


def _check_owner(named: str, url: str, endpoint: str | None) -> None:
    """No service's URL under another's name: its key would go there."""
    found = owner(url)
    if endpoint is not None and found not in (None, endpoint):
        other = f"the endpoint given is {endpoint}" if endpoint else "base_url is another server's"
        raise InvalidRequest(f"{named} is a URL of the endpoint {found}, and {other}")


def _check(config: ProviderConfig, places: Mapping[str, str]) -> None:
    for name in ("model", "organization", "project", "originator"):
        if getattr(config, name) is not None:
            (check_text if name == "model" else _check_header)(places.get(name, name), getattr(config, name))
    _check_transport(config, places.get("transport", "transport"))
    choice(places.get("continuation", "continuation"), config.continuation, ("auto", "exact", "off"))
    if not isinstance(config.store, bool):
        raise InvalidRequest(f"store must be true or false, not {type(config.store).__name__}")
    if config.store and not config.preset.store:
        raise InvalidRequest(f"{places.get('store', 'store')}: {config.preset.title} keeps no responses, store must be false")
    rate = places.get("requests_per_minute", "requests_per_minute")
    non_negative(rate, config.requests_per_minute, whole=True, optional=True, positive=True)
    hooks = config.hooks if isinstance(config.hooks, (list, tuple)) else (config.hooks,)
    if made := next((hook for hook in hooks if isinstance(hook, type)), None):
        raise InvalidRequest(f"hooks must be callables, not a class: give {made.__name__}(...)")
    if not all(map(callable, hooks)):
        raise InvalidRequest("hooks must be a callable or a list of callables")
    check_credential(config.api_key, config.credential, (config.url, "http" + config.websocket_address.removeprefix("ws")))


def _check_header(name: str, value: Any) -> None:
    plain_text(name, value)
    if value != value.strip():
        raise InvalidRequest(f"{name} begins or ends with white space, which a header cannot carry")


def _check_transport(config: ProviderConfig, named: str) -> None:
    transport: object = config.transport
    if isinstance(transport, str):
        choice(named, transport, TRANSPORTS)
        if transport == "websocket" and not config.offers_websocket:
            raise InvalidRequest(
                f"{named}: the endpoint {config.service} offers no WebSocket; use 'auto' or 'http_sse', or give websocket_url"
            )
    elif not callable(getattr(transport, "attempt", None)):
        raise InvalidRequest(f"{named} must be one of {', '.join(TRANSPORTS)} or a Transport, not {type(transport).__name__}")
