"""Checks of a request's fields: each raises `InvalidRequest` that names the field, says what it takes, and gives the nearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pixir_sync.protocol.codec import CodecError, dumps
from pixir_sync.protocol.errors import InvalidRequest

if TYPE_CHECKING:
    from pixir_sync.protocol.request import Request

__all__ = ["RESERVED", "check", "choice", "encoded", "mapping", "nearest", "plain_text", "text"]

CHOICES = {
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "reasoning_summary": ("auto", "concise", "detailed", "none"),
    "verbosity": ("low", "medium", "high"),
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
    "service_tier": ("auto", "default", "flex", "priority", "scale", "standard"),
}
_TOOL_CHOICES = ("auto", "none", "required")
RESERVED = frozenset({"type", "model", "input", "stream", "stream_id", "generate", "background"})
"""What ``extra_body`` may not hold: the library's own business."""


def text(name: str, value: Any) -> None:
    """A string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{name} must be a string that is not blank, not {_kind(value)}")


def plain_text(name: str, value: Any) -> None:
    """A string without control characters, fit for a header."""
    text(name, value)
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise InvalidRequest(f"{name} must not hold control characters")
    if not value.isascii():
        raise InvalidRequest(f"{name} must hold ASCII characters only")


def encoded(body: dict[str, Any]) -> bytes:
    """The body as JSON. Raises `InvalidRequest` where something of it has no JSON form."""
    try:
        return dumps(body)
    except CodecError as error:
        raise InvalidRequest(f"the request has no JSON form: {error}", phase="shape") from None


def mapping(name: str, value: Any) -> None:
    """A mapping with string keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidRequest(f"{name} must be a mapping with string keys, not {_kind(value)}")


def choice(name: str, value: Any, known: Sequence[str]) -> None:
    """One of a few words."""
    if value in known and isinstance(value, str):
        return
    raise InvalidRequest(f"{name} must be one of {', '.join(known)}{nearest(value, known)}")


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint for a word that is not among those that are known: the nearest of them, if one is near."""
    from difflib import get_close_matches  # a mistake may take the 0.5 ms that a start need not

    near = get_close_matches(word, list(known), n=1, cutoff=cutoff) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _kind(value: Any) -> str:
    return "a blank one" if isinstance(value, str) else type(value).__name__


def _number(name: str, value: Any, *, whole: bool = False, least: float = 0) -> None:
    kinds = (int,) if whole else (int, float)
    strange = isinstance(value, float) and not math.isfinite(value)  # an int may be larger than any float
    if not isinstance(value, kinds) or isinstance(value, bool) or strange or value < least:
        raise InvalidRequest(f"{name} must be a {'whole ' if whole else ''}number of {least} or more")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false, not {type(value).__name__}")


def _cache_key(value: Any) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= 512 or not all(32 < ord(char) < 127 for char in value):
        raise InvalidRequest("prompt_cache_key must be 1 to 512 printable ASCII characters without white space")


def _metadata(value: Any) -> None:
    mapping("metadata", value)
    if len(value) > 16:
        raise InvalidRequest("metadata may hold 16 pairs at most")
    for key, inner in value.items():
        if not isinstance(inner, str):
            raise InvalidRequest(f"metadata[{key[:64]!r}] must be a string, not {type(inner).__name__}")
        if len(key) > 64 or len(inner) > 512:
            raise InvalidRequest(f"metadata[{key[:64]!r}]: keys have at most 64 characters, values 512")


def _hosted(value: Any) -> None:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise InvalidRequest("hosted_tools must be a list of mappings")
    for at, tool in enumerate(value):
        mapping(f"hosted_tools[{at}]", tool)
        text(f"hosted_tools[{at}].type", tool.get("type"))
        if tool["type"] == "function":
            raise InvalidRequest(f"hosted_tools[{at}].type: function tools go into tools")


def _domains(name: str, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequest(f"{name} must be a list of domains, such as 'example.com'")
    for at, domain in enumerate(value):
        text(f"{name}[{at}]", domain)
        if "/" in domain or ":" in domain:
            raise InvalidRequest(f"{name}[{at}] must be a domain, such as 'example.com', not a URL")


def _country(name: str, value: Any) -> None:
    text(name, value)
    if len(value) != 2 or not value.isalpha():
        raise InvalidRequest(f"{name} must be a country's two letters, such as 'DE'")


def _named(name: str, value: Any, known: Mapping[str, Callable[[str, Any], None]]) -> None:
    """A mapping of these names only, each value right for its name."""
    mapping(name, value)
    for key, inner in value.items():
        if key not in known:
            raise InvalidRequest(f"{name}.{key} is not known{nearest(key, known)}")
        known[key](f"{name}.{key}", inner)


_LOCATION: dict[str, Callable[[str, Any], None]] = {
    "type": lambda n, v: choice(n, v, ("approximate",)),
    "country": _country,
} | dict.fromkeys(("city", "region", "timezone"), lambda n, v: text(n, v))
_WEB_SEARCH: dict[str, Callable[[str, Any], None]] = {
    "search_context_size": lambda n, v: choice(n, v, ("low", "medium", "high")),
    "filters": lambda n, v: _named(n, v, {"allowed_domains": _domains}),
    "user_location": lambda n, v: _named(n, v, _LOCATION),
    "external_web_access": lambda n, v: _flag(n, v),
    "sources": lambda n, v: _flag(n, v),
}


def _web_search(value: Any) -> None:
    if not isinstance(value, bool):
        _named("web_search", value, _WEB_SEARCH)


def _tool_choice(value: Any) -> None:
    if isinstance(value, str):
        choice("tool_choice", value, _TOOL_CHOICES)
    else:
        mapping("tool_choice", value)
        text("tool_choice.type", value.get("type"))


def _include(value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequest("include must be a list of strings")
    for at, name in enumerate(value):
        text(f"include[{at}]", name)


def _conversation(value: Any) -> None:
    text("conversation", value.get("id") if isinstance(value, Mapping) else value)


def _extra(value: Any) -> None:
    mapping("extra_body", value)
    for name in value:
        if name in RESERVED:
            raise InvalidRequest(f"extra_body.{name} is set by the library, leave it out")


def _string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string, not {type(value).__name__}")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "model": lambda v: text("model", v),
    "system_prompt": lambda v: _string("system_prompt", v),
    "developer_context": lambda v: _string("developer_context", v),
    "hosted_tools": _hosted,
    "web_search": _web_search,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": lambda v: _flag("parallel_tool_calls", v),
    "temperature": lambda v: _number("temperature", v),
    "top_p": lambda v: _number("top_p", v),
    "max_output_tokens": lambda v: _number("max_output_tokens", v, whole=True, least=1),
    "prompt_cache_key": _cache_key,
    "metadata": _metadata,
    "include": _include,
    "store": lambda v: _flag("store", v),
    "previous_response_id": lambda v: plain_text("previous_response_id", v),
    "conversation": _conversation,
    "extra_body": _extra,
    **{name: partial(choice, name, known=known) for name, known in CHOICES.items()},
}


def check(request: Request) -> dict[str, Any]:
    """Check every field that is given, but the history, tools and schema, which are checked where they are read.

    Returns what is given.
    """
    given = {name: value for name, value in vars(request).items() if value is not None}
    for name, value in given.items():
        if name in _CHECKS:
            _CHECKS[name](value)
    if request.previous_response_id is not None and request.conversation is not None:
        raise InvalidRequest("previous_response_id and conversation exclude each other: give one of the two")
    return given
