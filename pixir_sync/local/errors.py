"""The one error of the engine: a refusal, in the shapes that the wire has for it.

Rules kept here:

* A refusal knows its HTTP status, its code and the parameter it blames; the front picks the shape (a JSON body over
  HTTP, an ``error`` frame over a WebSocket).
* The type follows from the status unless it is given, as on the real service.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ApiError", "age_limit", "invalid", "missing", "not_found"]

_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request is refused.

    ``status`` is the HTTP status, ``code`` the machine-readable reason (or None), ``param`` the field that is to
    blame (or None), ``headers`` what an HTTP answer carries besides.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        # It may quote what a client sent, and half of a surrogate pair has no JSON form.
        self.message = message.encode(errors="replace").decode()
        self.code = code
        self.param = param
        self.type = type or _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = headers or {}

    def error(self) -> dict[str, Any]:
        """The inner error object, the same in every shape."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> dict[str, Any]:
        """The JSON body of an HTTP answer."""
        return {"error": self.error()}

    def frame(self, stream_id: str | None = None) -> dict[str, Any]:
        """The nested ``error`` event of a WebSocket; ``stream_id`` is named for named lanes only."""
        frame: dict[str, Any] = {"type": "error", "status": self.status, "error": self.error()}
        if self.headers:
            frame["headers"] = dict(self.headers)
        if stream_id is not None:
            frame["stream_id"] = stream_id
        return frame


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """A 400 for a value that cannot be."""
    return ApiError(400, message, code=code, param=param)


def missing(param: str) -> ApiError:
    """A 400 for a parameter that must be there."""
    return ApiError(400, f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def not_found(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 404."""
    return ApiError(404, message, code=code, param=param)


def age_limit() -> ApiError:
    """What a connection is told that has been open for as long as connections may be."""
    message = "This connection has reached its age limit. Open a new connection to go on."
    return ApiError(400, message, code="websocket_connection_limit_reached")
