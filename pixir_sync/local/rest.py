"""The rest of the HTTP side: responses by id, compaction, the catalogue. Pure, like the engine it reads.

Rules kept here:

* Only stored responses have an address; anything else is a 404 in the service's own words.
* A background response has run when it is first asked for, unless it was cancelled before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixir_sync.local.context import Context, tokens_of
from pixir_sync.local.engine import Engine
from pixir_sync.local.errors import ApiError, invalid, not_found
from pixir_sync.local.listing import as_listed
from pixir_sync.local.response import usage_object
from pixir_sync.local.rules import check_body
from pixir_sync.local.sealed import seal_compaction
from pixir_sync.local.state import Record

__all__ = ["cancel", "compact", "delete", "input_items", "input_tokens", "model", "models", "retrieve"]

Json = dict[str, Any]


def _record(engine: Engine, response_id: str) -> Record:
    record = engine.store.records.get(response_id)
    if record is None:
        raise not_found(f"Response with id '{response_id}' not found.")
    return record


def retrieve(engine: Engine, response_id: str) -> Json:
    """The stored response."""
    record = _record(engine, response_id)
    record.pending = False
    return record.response


def delete(engine: Engine, response_id: str) -> Json:
    """Forget the stored response."""
    _record(engine, response_id)
    engine.store.remove(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def cancel(engine: Engine, response_id: str) -> Json:
    """Cancel a background response; one that has ended is given as it is."""
    record = _record(engine, response_id)
    if not record.response["background"]:
        raise invalid("Cannot cancel a synchronous response.", code=None)
    if record.pending:
        record.pending = False
        record.response = engine.queued(record.response, "cancelled")
    return record.response


def input_items(engine: Engine, response_id: str, query: Mapping[str, str]) -> Json:
    """A page of the response's input, its previous context included; newest first unless ``order=asc``."""
    items = _record(engine, response_id).before.all_items()
    if query.get("order", "desc") != "asc":
        items.reverse()
    after = query.get("after")
    if after is not None:
        places = [index for index, item in enumerate(items) if item.get("id") == after]
        items = items[places[0] + 1 :] if places else []
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise invalid("Invalid 'limit': expected from 1 to 100.", "limit")
    page = [as_listed(item) for item in items[: int(limit)]]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": len(items) > len(page),
    }


def compact(engine: Engine, body: Json) -> Json:
    """The whole context as its user messages and one compaction item, which stands for everything."""
    clean, context = _counted(engine, body)
    kept = [
        {"id": engine.item_id(item), "status": "completed", **item}
        for item in context.all_items()
        if item["type"] == "message" and item["role"] == "user"
    ]
    content = seal_compaction(context.users)
    item = {"id": engine.make_id("cmp"), "type": "compaction", "encrypted_content": content}
    engine.store.keep(kept)
    sent = context.tokens + tokens_of(clean.get("instructions"))
    return {
        "id": engine.make_id("resp"),
        "object": "response.compaction",
        "created_at": int(engine.now()),
        "output": [*kept, item],
        "usage": usage_object(sent, 0, tokens_of(item)),
    }


def input_tokens(engine: Engine, body: Json) -> Json:
    """What a request's input would count."""
    clean, context = _counted(engine, body)
    tokens = context.tokens + tokens_of(clean.get("instructions")) + tokens_of(clean.get("tools"))
    return {"object": "response.input_tokens", "input_tokens": tokens}


def _counted(engine: Engine, body: Json) -> tuple[Json, Context]:
    """A body, checked, and the context with its input."""
    clean = check_body(body, websocket=False)
    engine.models.check(clean)
    return clean, engine.input_context(clean, engine.previous(clean), store=False)


def models(engine: Engine, default: str) -> Json:
    """The catalogue: the models there are, or the default one where any is accepted."""
    names = sorted(engine.models.known) if engine.models.known is not None else [default]
    return {"object": "list", "data": [_model(name) for name in names]}


def model(engine: Engine, name: str) -> Json:
    """One model of the catalogue."""
    if engine.models.known is not None and name not in engine.models.known:
        message = f"The model '{name}' does not exist or you do not have access to it."
        raise ApiError(404, message, code="model_not_found", param="model")
    return _model(name)


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pixir-sync"}
