"""Credentials: what authorises a call. The protocol, and the API key in its forms.

Rules kept here:

* A key is read when it is needed, not when the provider is made; nothing is kept longer than the call.
* A value that cannot be sent (control characters, white space, not ASCII) is refused before any network.
* ``repr`` shows no part of a key. ``identity`` tells accounts apart without giving a key away: a digest with a salt that is
  made anew in every process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from inspect import getattr_static
from typing import Protocol, cast, runtime_checkable

from pixir_sync.protocol.errors import InvalidRequest, NotAuthenticated
from pixir_sync.urls import check_origin

__all__ = [
    "ApiKey", "CallableKey", "ChatGPTToken", "Credential", "EnvironmentKey", "check_credential", "check_headers", "secrets_of",
]  # fmt: skip

_SALT = os.urandom(16)
# They say where a request goes and where it ends: a second opinion on that is how requests are smuggled.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade"})
_SECRET = re.compile(r"auth|key|token|secret|cookie|sign|session|account|password", re.IGNORECASE)
_KEY = re.compile(r"[!-~]+")
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # a tenth of the work of a look at each character
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@runtime_checkable
class Credential(Protocol):
    """What `Provider` asks of a credential.

    ``headers()`` gives the headers of one call (called once per attempt, from any thread); ``identity`` is equal for equal
    accounts and stays when a token is refreshed. A credential that also has ``refresh()`` is refreshed once after a 401; one with
    an ``origin``, such as ``https://host``, is sent there and nowhere else.

    >>> from pixir_sync import Credential, Provider
    >>> class Team:
    ...     identity = "team-a"
    ...     def headers(self):
    ...         return {"api-key": "a key from a vault"}
    >>> isinstance(Team(), Credential)
    True
    >>> provider = Provider(model="gpt-5.5", credential=Team())
    """

    @property
    def identity(self) -> str: ...

    def headers(self) -> Mapping[str, str]: ...


def _checked(key: object, source: str) -> str:
    if not isinstance(key, str):
        raise InvalidRequest(f"{source} must be a string, not {type(key).__name__}")
    if not key.strip():
        raise NotAuthenticated(f"{source} is empty", phase="auth")
    if _KEY.fullmatch(key) is None:
        raise InvalidRequest(f"{source} holds white space, control characters or characters beyond ASCII")
    return key


def _digest(key: str) -> str:
    import hashlib

    return hashlib.blake2b(key.encode(), key=_SALT, digest_size=16).hexdigest()


class _Bearer:
    """Base of the keys: one ``Authorization`` header."""

    __slots__ = ()

    def key(self) -> str:
        """The key now. Raises `NotAuthenticated` where there is none."""
        raise NotAuthenticated("this credential holds no key", phase="auth")

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.key()}"}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class ApiKey(_Bearer):
    """A key given as an argument. It travels in a pickle. Raises `InvalidRequest` for one that cannot be sent.

    >>> from pixir_sync import ApiKey, Provider
    >>> key = ApiKey("a-key")
    >>> key, key.headers()
    (<ApiKey>, {'Authorization': 'Bearer a-key'})
    >>> provider = Provider(model="gpt-5.5", credential=key)  # the same as api_key="a-key"
    """

    __slots__ = ("_identity", "_key")

    def __init__(self, key: str) -> None:
        self._key = _checked(key, "api_key")
        self._identity: str | None = None

    def __getstate__(self) -> object:
        own, slots = cast("tuple[object, dict[str, object]]", super().__getstate__())
        return own, {**slots, "_identity": None}  # which is this process's

    @property
    def identity(self) -> str:
        if self._identity is None:
            self._identity = _digest(self._key)
        return self._identity

    def key(self) -> str:
        return self._key


class EnvironmentKey(_Bearer):
    """The key of an environment variable, read at every call. Raises `NotAuthenticated` where it is not set.

    ``also``: a variable that is read where the first one is not set. ``needed``: false for a server that may ask for no key; then
    nothing is sent where there is none.
    """

    __slots__ = ("also", "needed", "variable")

    def __init__(self, variable: str = "OPENAI_API_KEY", *, also: str | None = None, needed: bool = True) -> None:
        self.variable, self.also, self.needed = variable, also, needed

    @property
    def missing(self) -> bool:
        """Whether a key is needed and not there."""
        return self.needed and self._source() is None

    @property
    def identity(self) -> str:
        return _digest("" if not self.needed and self._source() is None else self.key())

    def key(self) -> str:
        source = self._source()
        if source is None:
            raise NotAuthenticated(f"no API key: set {self.variable}, or give api_key", phase="auth")
        return _checked(os.environ[source].strip(), source)

    def headers(self) -> Mapping[str, str]:
        return {} if not self.needed and self._source() is None else super().headers()

    def _source(self) -> str | None:
        """The variable that holds a key."""
        return next((name for name in (self.variable, self.also) if name and os.environ.get(name, "").strip()), None)


class CallableKey(_Bearer):
    """A function that gives the key, called at every attempt. Its identity is the function, so that a key may rotate."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], str]) -> None:
        self.function = function

    @property
    def identity(self) -> str:
        return f"callable-{id(self.function):x}"

    def key(self) -> str:
        return _checked(self.function(), "the result of api_key()")


class ChatGPTToken(_Bearer):
    """A ChatGPT login: an access token, or a function that gives it, and the id of the account that it belongs to.

    Both are sent to ``origin`` only: a provider for another place (this machine apart, for tests) is refused when it is made.
    The identity is the account's, so that a refreshed token keeps its connections. Raises `InvalidRequest` for values that cannot
    be sent. A login flow that gets such tokens is not part of this class.

    >>> from pixir_sync import ChatGPTToken, Provider
    >>> token = ChatGPTToken("an-access-token", account_id="account-1")
    >>> sorted(token.headers())
    ['Authorization', 'chatgpt-account-id']
    >>> Provider(model="gpt-5.5", endpoint="chatgpt", credential=token)
    <Provider gpt-5.5 https://chatgpt.com/backend-api/codex>
    """

    __slots__ = ("_account_id", "_token")

    origin = "https://chatgpt.com"

    def __init__(self, token: str | Callable[[], str], account_id: str) -> None:
        self._token = token if callable(token) else _checked(token, "token")
        self._account_id = _checked(account_id, "account_id")

    @property
    def identity(self) -> str:
        return _digest(self._account_id)

    def key(self) -> str:
        return _checked(self._token(), "the result of token()") if callable(self._token) else self._token

    def headers(self) -> Mapping[str, str]:
        return {**super().headers(), "chatgpt-account-id": self._account_id}


def check_credential(api_key: object, credential: object, urls: Iterable[str]) -> None:
    """What a provider was given for a key or a credential, and where that would be sent. Raises `InvalidRequest`."""
    if credential is not None and api_key is not None:
        raise InvalidRequest("api_key and credential exclude each other: give one of the two")
    if api_key is not None and not isinstance(api_key, str) and not callable(api_key):
        raise InvalidRequest(f"api_key must be a string or a callable, not {type(api_key).__name__}")
    # Nothing is read here, because an identity may need a key that is not there yet.
    if credential is not None and not all(getattr_static(credential, name, None) is not None for name in ("headers", "identity")):
        raise InvalidRequest("credential must have headers() and identity")
    if isinstance(api_key, str):
        ApiKey(api_key)
    if credential is not None and getattr_static(credential, "origin", None) is not None:
        origin: object = getattr(credential, "origin", None)
        if not isinstance(origin, str | None):
            raise InvalidRequest(f"credential.origin must be a string, such as 'https://host', not {type(origin).__name__}")
        for url in urls if origin is not None else ():
            check_origin(url, str(origin).lower().rstrip("/"))


def check_headers(headers: object, source: str) -> dict[str, str]:
    """Headers that can be sent: names of token characters, values without control characters. Raises `InvalidRequest`."""
    if not isinstance(headers, Mapping):
        raise InvalidRequest(f"{source} must be a mapping of strings, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or _HEADER_NAME.fullmatch(name) is None:
            raise InvalidRequest(f"{source} has a name that is no header name")
        if name.lower() in _FRAMING:
            raise InvalidRequest(f"{source}[{name!r}] is set by the library, leave it out")
        if not isinstance(value, str):
            raise InvalidRequest(f"{source}[{name!r}] must be a string, not {type(value).__name__}")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise InvalidRequest(f"{source}[{name!r}] holds control characters or characters that a header cannot carry")
        if value != value.strip():
            raise InvalidRequest(f"{source}[{name!r}] begins or ends with white space, which a header cannot carry")
    return dict(headers)


def secrets_of(headers: Mapping[str, str], *, every: bool = False) -> list[str]:
    """The credential values among headers, for replacing them in what a server says. ``every``: all of them are such."""
    if not headers:
        return []
    found: list[str] = []
    for name, value in headers.items():
        if every or _SECRET.search(name):
            found += [value, *value.split(" ")[1:]]
    return sorted({value for value in found if len(value) >= 4}, key=len, reverse=True)
