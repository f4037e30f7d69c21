"""What is known of models: the built-in one, and which reason.

Rules kept here: this is knowledge that ages. Nothing depends on a model being listed; an unknown one is sent as it is.
"""

from __future__ import annotations

__all__ = ["DEFAULT_MODEL", "reasons"]

DEFAULT_MODEL = "gpt-5.5"
"""The model where no argument, no ``PIXIR_MODEL`` and no configuration file names one."""

_REASONING = ("gpt-5", "gpt-6", "o1", "o3", "o4", "codex-", "grok-4", "grok-3-mini")
_NOT_REASONING = ("gpt-5-chat", "gpt-5.1-chat", "gpt-5.2-chat")


def reasons(model: str) -> bool:
    """Whether a model is known to reason, so that its encrypted reasoning may be asked for (others answer 400)."""
    name = model.rsplit("/", 1)[-1].lower()
    return name.startswith(_REASONING) and not name.startswith(_NOT_REASONING)
