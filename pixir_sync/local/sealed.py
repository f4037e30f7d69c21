"""Encrypted content as this server makes it: opaque to a client, checked when it comes back.

Rules kept here:

* It is bound to its model and says what it is; anything altered, cut or foreign is refused.
* It needs no state: content made before a restart is good after it.
* Not secret: it holds no text of anybody, only counts and names. The point is that a client must not look inside.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from pixir_sync.local.errors import ApiError, invalid
from pixir_sync.protocol.codec import CodecError, dumps, loads

__all__ = ["check_reasoning", "seal_compaction", "seal_reasoning", "users_of"]


def _seal(content: dict[str, Any]) -> str:
    data = dumps(content)
    return "gAAAA" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()[:12] + data).decode("ascii")


def _open(token: Any) -> dict[str, Any] | None:
    """The content of a token, None where it is none of ours or not whole."""
    if not isinstance(token, str) or not token.startswith("gAAAA"):
        return None
    try:
        raw = base64.b64decode(token[5:].encode("ascii"), altchars=b"-_", validate=True)
        content = loads(raw[12:])
    except (ValueError, CodecError):
        return None
    whole = raw[:12] == hashlib.sha256(raw[12:]).digest()[:12]
    return content if whole and isinstance(content, dict) else None


def seal_reasoning(model: str, item_id: str, *, done: bool) -> str:
    """The encrypted content of a reasoning item; the one of the added event is provisional and never accepted back."""
    return _seal({"kind": "reasoning", "model": model, "item": item_id, "done": done})


def check_reasoning(token: Any, model: str, param: str) -> None:
    """Raise `ApiError` 400 unless the token is the finished one that this model made."""
    content = _open(token)
    if content is None or content.get("kind") != "reasoning" or not content.get("done"):
        raise _refused(param, "it could not be decrypted or parsed")
    if content.get("model") != model:
        raise _refused(param, "it was made by another model")


def _refused(param: str, why: str) -> ApiError:
    message = f"The encrypted content at {param} could not be verified: {why}."
    return invalid(message, param, "invalid_encrypted_content")


def seal_compaction(users: int) -> str:
    """The encrypted content of a compaction item: how many user messages it stands for."""
    return _seal({"kind": "compaction", "users": users})


def check_compaction(token: Any, param: str) -> None:
    """Raise `ApiError` 400 unless the token is a compaction of ours."""
    content = _open(token)
    if content is None or content.get("kind") != "compaction":
        raise _refused(param, "it could not be decrypted or parsed")


def users_of(item: dict[str, Any]) -> int:
    """The user messages that a checked compaction item stands for."""
    content = _open(item.get("encrypted_content")) or {}
    users = content.get("users", 0)
    return users if isinstance(users, int) else 0
