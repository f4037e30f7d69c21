"""The services and servers that are known by name: one table of what each offers, and how its URL is recognised.

Rules kept here:

* This is knowledge that ages. What is not known of a server is left to find out: an unknown one is treated as OpenAI's own.
* A key's variable is the service's own: a key of one service is never sent to another.
* A host says whose URL it is, on this machine a port that nobody else uses. A port that many use (8000, 8080) says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from pixir_sync.urls import is_loopback

__all__ = ["FRAME_LIMIT", "OTHER", "PRESETS", "Preset", "owner", "recognised"]

FRAME_LIMIT = 16_000_000
"""The largest WebSocket message, in bytes, that any of them is sent; a larger one goes over HTTP."""

_HEADROOM = 5 / 6  # of a connection's age, after which it is replaced between two turns: 50 of 60 minutes
_CODEX = "/backend-api/codex"


_NO_HEADERS: Mapping[str, str] = {}


class Preset(NamedTuple):
    """What is known of a service. Times in seconds, sizes in bytes.

    Attributes:
        title: its name in messages. base_url: its HTTP base; None where everybody has another one.
        key_variable: the environment variable of its API key. needs_key: false where a call without any key is answered.
        hosts: whose URLs are its own; one that begins with a dot is the end of a name. port: likewise, on this machine.
        own_server: it runs wherever its users have it, so that ``OPENAI_BASE_URL`` says where.
        websocket: whether it takes WebSockets. lanes: whether several streams may share one.
        store: whether it keeps responses. encrypted_reasoning: whether encrypted reasoning may be asked for.
        cache_retention: whether ``prompt_cache_retention`` is sent.
        age_limit, idle_limit: when it ends a connection, and an idle one; None where no limit is known.
        frame_limit: the largest message that goes over its WebSocket.
        upgrade_headers: further headers of its WebSocket's upgrade.
    """

    title: str
    base_url: str | None
    key_variable: str = "OPENAI_API_KEY"
    needs_key: bool = True
    hosts: tuple[str, ...] = ()
    port: int | None = None
    own_server: bool = False
    websocket: bool = True
    lanes: bool = False
    store: bool = True
    encrypted_reasoning: bool = True
    cache_retention: bool = True
    age_limit: float | None = None
    idle_limit: float | None = None
    frame_limit: int = FRAME_LIMIT
    upgrade_headers: Mapping[str, str] = _NO_HEADERS

    def within_age(self, seconds: float) -> float:
        """The time after which a connection is replaced: this long, or sooner where the service would end it."""
        return seconds if self.age_limit is None else min(seconds, self.age_limit * _HEADROOM)

    def within_idle(self, seconds: float) -> float:
        """The time after which an idle connection is closed, likewise."""
        return seconds if self.idle_limit is None else min(seconds, self.idle_limit * _HEADROOM)


def _on_this_machine(
    title: str, base_url: str, key_variable: str, *, port: int | None = None, store: bool = True
) -> Preset:
    """A model server of one's own: HTTP only, and a key only where it was told to ask for one."""
    return Preset(
        title, base_url, key_variable, needs_key=False, port=port, own_server=True, websocket=False, store=store,
        encrypted_reasoning=False, cache_retention=False,
    )  # fmt: skip


PRESETS: Mapping[str, Preset] = {
    "openai": Preset(
        "OpenAI", "https://api.openai.com/v1", hosts=("api.openai.com", ".api.openai.com"), lanes=True, age_limit=3600,
    ),
    "chatgpt": Preset(
        "the ChatGPT backend", "https://chatgpt.com/backend-api/codex", hosts=("chatgpt.com", ".chatgpt.com"), store=False,
        cache_retention=False, age_limit=3600, upgrade_headers={"OpenAI-Beta": "responses_websockets=2026-02-06"},
    ),
    "azure": Preset(
        "Azure OpenAI", None, "AZURE_OPENAI_API_KEY", age_limit=3600,
        hosts=tuple(f".{kind}.azure.{end}" for end in ("com", "us") for kind in ("openai", "services.ai", "cognitiveservices")),
    ),
    "xai": Preset("xAI", "https://api.x.ai/v1", "XAI_API_KEY", hosts=("api.x.ai", ".api.x.ai"), age_limit=1500),
    "openrouter": Preset(
        "OpenRouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", hosts=("openrouter.ai", ".openrouter.ai"),
        websocket=False, store=False,
    ),
    "vercel": Preset(
        "the Vercel AI Gateway", "https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY", hosts=("ai-gateway.vercel.sh",),
        age_limit=780, idle_limit=300, frame_limit=4_000_000,
    ),
    "litellm": Preset(
        "a LiteLLM proxy", "http://localhost:4000/v1", "LITELLM_PROXY_API_KEY", needs_key=False, own_server=True,
    ),
    "ollama": _on_this_machine("Ollama", "http://localhost:11434/v1", "OLLAMA_API_KEY", port=11434, store=False),
    "vllm": _on_this_machine("vLLM", "http://localhost:8000/v1", "VLLM_API_KEY"),
    "llamacpp": _on_this_machine("llama.cpp's server", "http://localhost:8080/v1", "LLAMA_API_KEY", store=False),
    "lmstudio": _on_this_machine("LM Studio", "http://localhost:1234/v1", "LM_API_TOKEN", port=1234),
}  # fmt: skip

OTHER = Preset("the server", None, own_server=True, lanes=True, age_limit=3600)
"""A server of no known kind: what it lacks, it says."""


@lru_cache(maxsize=256)
def recognised(url: str) -> str | None:
    """The name of the preset that a base URL belongs to, None where it is nobody's that is known."""
    parts, name = urlsplit(url), owner(url)
    if name is not None or _CODEX in parts.path:
        return name or "chatgpt"
    ports = {preset.port or 0: name for name, preset in PRESETS.items() if preset.port}
    return ports.get(parts.port or 0) if is_loopback(parts.hostname or "") else None


def owner(url: str) -> str | None:
    """The name of the preset that the host of a URL belongs to."""
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    for name, preset in PRESETS.items():
        if any(host == known or (known.startswith(".") and host.endswith(known)) for known in preset.hosts):
            return name
    return None
