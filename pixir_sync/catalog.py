"""What is known of models and services: presets of endpoints, the built-in model, which models reason.

Rules kept here: this is knowledge that ages. Nothing depends on a model being listed; an unknown one is sent as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pixir_sync.protocol.errors import InvalidRequest

__all__ = ["DEFAULT_MODEL", "PRESETS", "Preset", "config_path", "default_model", "reasons"]

DEFAULT_MODEL = "gpt-5.5"
"""The model where no argument, no ``PIXIR_MODEL`` and no configuration file names one."""

_REASONING = ("gpt-5", "gpt-6", "o1", "o3", "o4", "codex-", "grok-4", "grok-3-mini")
_NOT_REASONING = ("gpt-5-chat", "gpt-5.1-chat", "gpt-5.2-chat")


@dataclass(frozen=True, slots=True)
class Preset:
    """A service under its name.

    Attributes:
        base_url: the HTTP base. key_variable: the environment variable of its API key.
        chatgpt: the ChatGPT backend's rules apply (``store`` must be false, no cache retention).
    """

    base_url: str
    key_variable: str = "OPENAI_API_KEY"
    chatgpt: bool = False


PRESETS: Mapping[str, Preset] = {
    "openai": Preset("https://api.openai.com/v1"),
    "chatgpt": Preset("https://chatgpt.com/backend-api/codex", chatgpt=True),
    "xai": Preset("https://api.x.ai/v1", "XAI_API_KEY"),
    "vercel": Preset("https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY"),
}


def reasons(model: str) -> bool:
    """Whether a model is known to reason, so that its encrypted reasoning may be asked for (others answer 400)."""
    name = model.rsplit("/", 1)[-1].lower()
    return name.startswith(_REASONING) and not name.startswith(_NOT_REASONING)


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: ``PIXIR_CONFIG``, else ``pixir/config.ini`` under ``XDG_CONFIG_HOME`` or ``~/.config``."""
    named = environ.get("PIXIR_CONFIG")
    if named:
        return Path(named).expanduser()
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "pixir" / "config.ini"


def default_model(argument: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The model to use: the argument, ``PIXIR_MODEL``, ``model`` in section ``[pixir]`` of the file, or `DEFAULT_MODEL`.

    Raises `InvalidRequest` where the configuration file cannot be read as one.
    """
    for name in (argument, environ.get("PIXIR_MODEL")):
        if name is not None and name.strip():
            return name.strip()
    if not config_path(environ).is_file():
        return DEFAULT_MODEL
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(config_path(environ), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise InvalidRequest(f"the configuration file {config_path(environ)} cannot be read: {type(error).__name__}") from None
    return parser.get("pixir", "model", fallback="").strip() or DEFAULT_MODEL
