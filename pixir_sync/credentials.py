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
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from pixir_sync.protocol.errors import InvalidRequest, NotAuthenticated

__all__ = ["ApiKey", "CallableKey", "Credential", "EnvironmentKey", "check_headers", "secrets_of"]

_SALT = os.urandom(16)
# They say where a request goes and where it ends: a second opinion on that is how requests are smuggled.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@runtime_checkable
class Credential(Protocol):
    """What `Provider` asks of a credential.

    ``headers()`` gives the headers of one call (called once per attempt, from any thread); ``identity`` is equal for equal
    accounts and stays when a token is refreshed. A credential that also has ``refresh()`` is refreshed once after a 401.
    """

    @property
    def identity(self) -> str: ...

    def headers(self) -> Mapping[str, str]: ...


def _checked(key: object, source: str) -> str:
    if not isinstance(key, str):
        raise InvalidRequest(f"{source} must be a string, not {type(key).__name__}")
    if not key.strip():
        raise NotAuthenticated(f"{source} is empty", phase="auth")
    if not key.isascii() or not all(32 < ord(char) < 127 for char in key):
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
    """A key given as an argument. It travels in a pickle. Raises `InvalidRequest` for one that cannot be sent."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = _checked(key, "api_key")

    @property
    def identity(self) -> str:
        return _digest(self._key)

    def key(self) -> str:
        return self._key


class EnvironmentKey(_Bearer):
    """The key of an environment variable, read at every call. Raises `NotAuthenticated` where it is not set."""

    __slots__ = ("variable",)

    def __init__(self, variable: str = "OPENAI_API_KEY") -> None:
        self.variable = variable

    @property
    def identity(self) -> str:
        return _digest(self.key())

    def key(self) -> str:
        found = os.environ.get(self.variable)
        if found is None or not found.strip():
            raise NotAuthenticated(f"no API key: set {self.variable}, or give api_key", phase="auth")
        return _checked(found.strip(), self.variable)


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
        if any((ord(c) < 32 and c != "\t") or ord(c) == 127 or ord(c) > 255 for c in value):
            raise InvalidRequest(f"{source}[{name!r}] holds control characters or characters that a header cannot carry")
        if value != value.strip():
            raise InvalidRequest(f"{source}[{name!r}] begins or ends with white space, which a header cannot carry")
    return dict(headers)


def secrets_of(headers: Mapping[str, str]) -> list[str]:
    """The credential values among headers, for replacing them in what a server says."""
    found: list[str] = []
    for name, value in headers.items():
        if name.lower() in ("authorization", "proxy-authorization", "cookie", "chatgpt-account-id") or "key" in name.lower():
            found += [value, *value.split(" ")[1:]]
    return sorted({value for value in found if len(value) >= 4}, key=len, reverse=True)
