"""The response object: the request echoed, and the usage. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["response_object", "usage_object"]

# Echoed as they were sent; null where they were not.
_ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt", "prompt_cache_key",
    "prompt_cache_retention", "safety_identifier", "user",
)  # fmt: skip
# Echoed as they were sent; this where they were not.
_DEFAULTS: dict[str, Any] = {
    "background": False,
    "metadata": {},
    "parallel_tool_calls": True,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
}


def response_object(body: dict[str, Any], response_id: str, created_at: int) -> dict[str, Any]:
    """The response as it begins: the request echoed, nothing put out yet."""
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    caching = body.get("prompt_cache_options") or {}
    conversation = body.get("conversation")
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "in_progress",
        "model": body["model"],
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "conversation": {"id": conversation} if isinstance(conversation, str) else conversation,
        "prompt_cache_options": {"mode": caching.get("mode", "implicit"), "ttl": caching.get("ttl", "30m")},
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity", "medium")},
        **{name: body.get(name) for name in _ECHOED},
        **{name: body.get(name, default) for name, default in _DEFAULTS.items()},
    }


def usage_object(input_tokens: int, cached_tokens: int, output_tokens: int, reasoning_tokens: int = 0) -> dict[str, Any]:
    """The usage of one response; what was cached is part of the input."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": input_tokens + output_tokens,
    }
