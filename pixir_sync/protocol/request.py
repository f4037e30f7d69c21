"""`Request`, and the one builder of request bodies.

Rules kept here:

* A wrong field is `InvalidRequest` that names it (and the nearest name), before any network.
* An option that was not given is absent from the body, never null; 0 and 0.0 are values and are sent.
* One builder makes the body for every transport and for the preview; a transport adds only its own envelope.
* It works in two steps, the fields and the input. Where none of the fields can change they are read once, by `stream()`'s check.
* Where the caller names ``previous_response_id`` or ``conversation`` it owns the context: its input goes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from pixir_sync.protocol import checks
from pixir_sync.protocol.body import Body, stores
from pixir_sync.protocol.checks import RESERVED
from pixir_sync.protocol.compare import LEAVES
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.intake import Known, take_in
from pixir_sync.protocol.result import JsonData, made_of
from pixir_sync.protocol.schema import check_tools, output_format

__all__ = ["Body", "Outline", "Request", "build", "make_request", "outline", "unknown_name"]

# Fields whose name and value go into the body as they are.
_VERBATIM = frozenset({
    "tool_choice", "parallel_tool_calls", "temperature", "top_p", "max_output_tokens", "prompt_cache_key",
    "prompt_cache_retention", "metadata", "service_tier", "include", "previous_response_id", "conversation",
})  # fmt: skip
_REASONING = {"reasoning_effort": "effort", "reasoning_summary": "summary"}  # parts of one object
# Fields that decide how the input is sent, also where they come in ``extra_body``.
_DECIDING = ("store", "previous_response_id", "conversation")
# Wire names that have another name here, and wire names that go into the body as they are.
_ALIASES = {"instructions": "system_prompt", "input": "history"}
_WIRE_ONLY = frozenset({
    "context_management", "max_tool_calls", "moderation", "prompt", "prompt_cache_options", "reasoning", "safety_identifier",
    "stream_options", "text", "top_logprobs", "truncation", "user",
})  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Request(JsonData):
    """One model call. Every field is optional; None means: not sent, or the provider's default.

    Attributes:
        model: the model's id; default: the `Provider`'s.
        system_prompt: sent as ``instructions`` (also accepted under that name) on every turn.
        developer_context: sent, trimmed, as the first input item with the role ``developer``; left out where blank.
        history: a string, or the list of input items (also accepted as ``input``). Never changed, read when first sent.
        tools: function tools: functions, or flat mappings. hosted_tools: the provider's own, as raw specs.
        web_search: True, or a mapping with ``search_context_size`` (``low``, ``medium``, ``high``), ``filters``
            (``allowed_domains``), ``user_location`` (``city``, ``country``, ``region``, ``timezone``), ``external_web_access``
            and ``sources`` (whether all that was found is listed). A web search among the raw specs wins over it.
        tool_choice: ``auto``, ``none``, ``required``, or a mapping. parallel_tool_calls: whether several at once are allowed.
        output_schema: ``{"name", "schema", "strict"}``, a JSON schema, or a data class; the answer is in ``result.parsed``.
        reasoning_effort: ``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh`` or ``max``.
        reasoning_summary: ``auto``, ``concise`` or ``detailed``. verbosity: ``low``, ``medium`` or ``high``.
        temperature, top_p, max_output_tokens: as the API has them.
        prompt_cache_key: 1 to 512 printable ASCII characters without white space.
        prompt_cache_retention: ``in_memory`` or ``24h``; not sent to the ChatGPT backend, which refuses it.
        metadata: up to 16 pairs of strings. service_tier, include: as the API has them.
        store: whether the provider keeps the response; default: the `Provider`'s, which is false.
        previous_response_id, conversation: the caller owns the context; at most one of the two.
        extra_body: further fields of the body, over the generated ones; may not hold those of `RESERVED`.

    >>> from pixir_sync import Provider, Request
    >>> request = Request(system_prompt="Be brief.", history="Hi", temperature=0)
    >>> request
    <Request system_prompt history temperature>
    >>> Provider(model="gpt-5.5", transport="sse").request_body_preview(request)["instructions"]
    'Be brief.'
    """

    model: str | None = None
    system_prompt: str | None = None
    developer_context: str | None = None
    history: Any = None
    tools: Sequence[Any] | None = None
    hosted_tools: Sequence[Mapping[str, Any]] | None = None
    web_search: bool | Mapping[str, Any] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    output_schema: Any = None
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    verbosity: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    metadata: Mapping[str, str] | None = None
    service_tier: str | None = None
    include: Sequence[str] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | Mapping[str, Any] | None = None
    extra_body: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        return f"<Request {' '.join(given)}>"

    @property
    def caller_managed(self) -> bool:
        """Whether the caller owns the context."""
        return self.previous_response_id is not None or self.conversation is not None


_NAMES = tuple(f.name for f in fields(Request))


def unknown_name(what: str, name: str, known: Sequence[str]) -> InvalidRequest:
    """The error for a name that does not exist, with the nearest one that does."""
    return InvalidRequest(f"unknown {what} {name!r}{checks.nearest(name, known)}")


def make_request(request: Any, given: Mapping[str, Any]) -> Request:
    """A `Request` from what a caller may give: a string, items, a mapping with wire names, a `Request`; plus fields by name.

    Raises `InvalidRequest` for an unknown name, or for one field given under two names.
    """
    if request is None:
        made: dict[str, Any] = {}
    elif isinstance(request, (str, list, tuple)):
        if "history" in given or "input" in given:
            raise InvalidRequest("history: the input is given twice, as the request and by name")
        made = {"history": request}
    elif isinstance(request, Request):
        if not given:
            return request
        made = vars(request)
    elif isinstance(request, Mapping):
        made = _named(request, "field of the request")
    else:
        raise InvalidRequest(f"request must be a string, a list of items, a mapping or a Request, not {type(request).__name__}")
    more = {name: value for name, value in _named(given, "argument").items() if value is not None} if given else given
    if "extra_body" in more and isinstance(made.get("extra_body"), Mapping) and isinstance(more["extra_body"], Mapping):
        more = {**more, "extra_body": {**made["extra_body"], **more["extra_body"]}}
    return replace(request, **more) if isinstance(request, Request) else made_of(Request, {**made, **more})


def _named(given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What was given, under the names of `Request`'s fields."""
    named: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in given.items():
        target = _ALIASES.get(name, name)
        if name in _WIRE_ONLY:
            extra[name] = value
        elif name in RESERVED and target == name and name != "model":
            raise InvalidRequest(f"{name} is set by the library, leave it out")
        elif target not in _NAMES:
            raise unknown_name(what, str(name), [*_NAMES, *_ALIASES, *_WIRE_ONLY])
        elif target in named:
            raise InvalidRequest(f"{target} is given twice, also as {name!r}")
        else:
            named[target] = value
    if extra:
        own = named.get("extra_body") or {}
        checks.mapping("extra_body", own)
        named["extra_body"] = {**extra, **own}
    return named


class Outline(NamedTuple):
    """What a request asks for beside its input, checked.

    Attributes:
        given: the request as the caller gave it. request: with those further fields in their places that decide how its input is
            sent. fields: of the body.
        parse, stores: as `Body` has them.
        constant: it holds nothing but text, numbers and truths, so that it is the same whenever it is read.
    """

    given: Request
    request: Request
    fields: dict[str, Any]
    parse: Callable[[Any], Any] | None
    stores: bool
    constant: bool

    def __repr__(self) -> str:
        return f"<Outline fields={len(self.fields)} constant={self.constant}>"


def outline(
    request: Request,
    *,
    model: str,
    store: bool,
    reasons: Callable[[str], bool] | None,
    stateless: str | None = None,
    cache_retention: bool = True,
) -> Outline:
    """All but the input of a request. Raises `InvalidRequest` that names the field.

    Args:
        model, store: the provider's defaults.
        reasons: whether a model reasons, so that its encrypted reasoning can be asked for; None where the server has none.
        stateless: the name of a server that keeps no responses. cache_retention: whether ``prompt_cache_retention`` is sent.
    """
    asked = request
    request, given = _lifted(asked, checks.check(asked))
    store = store if request.store is None else request.store
    if stateless is not None and store:
        raise InvalidRequest(f"store: {stateless} keeps no responses, store must be false")
    body: dict[str, Any] = {"model": request.model or model}
    _plain(body, given)
    _tools(body, request)
    parse = _format(body, request)
    body["store"] = store
    if not store and not request.caller_managed and reasons is not None and (reasons(body["model"]) or "reasoning" in body):
        body["include"] = list(dict.fromkeys([*body.get("include", ()), "reasoning.encrypted_content"]))
    _extra(body, request.extra_body or {})
    if not cache_retention:
        body.pop("prompt_cache_retention", None)
    constant = LEAVES.issuperset(map(type, (given | {"history": None}).values()))
    return Outline(asked, request, body, parse, stores(body), constant)


def build(outline: Outline, *, warn: Callable[[str], None], known: Known = (), glance: bool = False) -> Body:
    """The body of a request, with its history as it is now. Raises `InvalidRequest` that names the item and the field.

    Args:
        warn: told, without any content, what the repair of the history left out.
        known: the inputs that connections hold and that the history may begin with. glance: see `take_in`.
    """
    request = outline.request
    managed, context = request.caller_managed, (request.developer_context or "").strip()
    held, settled, rest = take_in(request.history, context, known, managed=managed, warn=warn, glance=glance)
    if not settled and not rest and not (managed and request.conversation is not None):
        raise InvalidRequest("history is empty: there is nothing to answer")
    return Body(outline.fields, rest, outline.parse, outline.stores, managed, held, settled)


def _lifted(request: Request, given: dict[str, Any]) -> tuple[Request, dict[str, Any]]:
    """The request with those further fields in their places, and checked, that decide how its input is sent."""
    if not request.extra_body:
        return request, given
    extra = dict(request.extra_body)
    lifted = {name: extra.pop(name) for name in _DECIDING if name in extra}
    if lifted:
        given = checks.check(request := replace(request, **lifted, extra_body=extra))
    return request, given


def _plain(body: dict[str, Any], given: Mapping[str, Any]) -> None:
    """The fields that go as they are, and those that share an object."""
    if "system_prompt" in given:
        body["instructions"] = given["system_prompt"]
    for name, value in given.items():
        if name in _VERBATIM:
            body[name] = dict(value) if isinstance(value, Mapping) else list(value) if name == "include" else value
        elif name in _REASONING:
            body.setdefault("reasoning", {})[_REASONING[name]] = value
    if "verbosity" in given:
        body["text"] = {"verbosity": given["verbosity"]}


def _tools(body: dict[str, Any], request: Request) -> None:
    if request.tools is None and request.hosted_tools is None and request.web_search is None:
        return
    tools = check_tools(request.tools) if request.tools is not None else []
    hosted = [dict(tool) for tool in request.hosted_tools or ()]
    raw = any(str(tool["type"]).startswith("web_search") for tool in [*hosted, *tools])
    if request.web_search is not None and request.web_search is not False and not raw:
        options = dict(request.web_search) if isinstance(request.web_search, Mapping) else {}
        if options.pop("sources", False):
            body["include"] = list(dict.fromkeys([*body.get("include", ()), "web_search_call.action.sources"]))
        if "user_location" in options:
            options["user_location"] = {"type": "approximate", **options["user_location"]}
        hosted.append({"type": "web_search", **options})
    if tools or hosted:
        body["tools"] = [*tools, *hosted]


def _format(body: dict[str, Any], request: Request) -> Callable[[Any], Any] | None:
    if request.output_schema is None:
        return None
    shape, parse = output_format(request.output_schema)
    body["text"] = {**body.get("text", {}), "format": shape}
    return parse


def _extra(body: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        own: Any = body.get(name)
        parts = name in ("reasoning", "text") and isinstance(own, dict) and isinstance(value, Mapping)
        body[name] = {**own, **value} if parts else value  # both sides may say a part of these two
