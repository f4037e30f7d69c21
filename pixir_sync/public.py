"""Every public name, from its room. Imported with the first of them that is used: see `pixir_sync`.

`Hook` and `TurnRecord` come at their own first use: a call without hooks needs neither.
"""

from typing import TYPE_CHECKING, Any

from pixir_sync.cancellation import CancelToken
from pixir_sync.config import Keepalive, Network, PoolOptions, ProviderConfig, Timeouts
from pixir_sync.credentials import ApiKey, ChatGPTToken, Credential
from pixir_sync.protocol.errors import (
    Cancelled,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    ContextOverflow,
    DeadlineExceeded,
    FirstEventTimeout,
    FrameTooLarge,
    HandshakeRefused,
    IdleTimeout,
    InvalidRequest,
    InvalidResponse,
    ModelNotSupported,
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    PoolTimeout,
    ProviderClosed,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ResponseCancelled,
    ResponseFailed,
    SessionBusy,
    TotalTimeout,
    TransportError,
    UsageLimitReached,
    WriteTimeout,
)
from pixir_sync.protocol.events import (
    Event,
    FunctionCallDelta,
    ItemDone,
    ReasoningDelta,
    RefusalDelta,
    Terminal,
    TextDelta,
)
from pixir_sync.protocol.items import assistant, image, tool_output, user
from pixir_sync.protocol.messages import from_messages
from pixir_sync.protocol.request import Request
from pixir_sync.protocol.result import FunctionCall, Result, Usage
from pixir_sync.protocol.retry import RetryPolicy
from pixir_sync.protocol.schema import tool_spec
from pixir_sync.provider import Provider
from pixir_sync.stream import ResponseStream
from pixir_sync.transports.base import Call, Transport
from pixir_sync.version import __version__

if TYPE_CHECKING:
    from pixir_sync.hooks import Hook, TurnRecord
else:

    def __getattr__(name: str) -> Any:
        if name not in ("Hook", "TurnRecord"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pixir_sync import hooks

        globals().update(Hook=hooks.Hook, TurnRecord=hooks.TurnRecord)
        return globals()[name]

__all__ = [
    "ApiKey", "Call", "CancelToken", "Cancelled", "ChatGPTToken", "ConnectFailed", "ConnectTimeout", "ConnectionLost",
    "ContextOverflow", "Credential", "DeadlineExceeded", "Event", "FirstEventTimeout", "FrameTooLarge", "FunctionCall",
    "FunctionCallDelta", "HandshakeRefused", "Hook", "IdleTimeout", "InvalidRequest", "InvalidResponse",
    "ItemDone", "Keepalive", "ModelNotSupported", "Network", "NotAuthenticated", "Overloaded", "PermissionDenied",
    "PixirError", "PoolOptions", "PoolTimeout", "Provider", "ProviderClosed", "ProviderConfig", "ProviderError",
    "QuotaExceeded", "RateLimited", "ReasoningDelta", "RefusalDelta", "Request", "ResponseCancelled", "ResponseFailed",
    "ResponseStream", "Result", "RetryPolicy", "SessionBusy", "Terminal", "TextDelta", "Timeouts", "TotalTimeout",
    "Transport", "TransportError", "TurnRecord", "Usage", "UsageLimitReached", "WriteTimeout", "__version__", "assistant",
    "from_messages", "image", "tool_output", "tool_spec", "user",
]  # fmt: skip
