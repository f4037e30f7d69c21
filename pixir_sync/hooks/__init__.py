"""Hooks: what a program is told of each turn when it has ended, and two that are ready-made: `JsonLines`, `OpenTelemetry`.

Importing this package imports no OpenTelemetry; making an `OpenTelemetry` does (extra ``otel``). The names here are imported at
their first use: a call without hooks needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixir_sync.forking import importing

if TYPE_CHECKING:
    from pixir_sync.hooks.jsonlines import JsonLines
    from pixir_sync.hooks.record import Hook, TurnRecord
    from pixir_sync.hooks.spans import OpenTelemetry
else:

    def __getattr__(name: str) -> Any:
        """A name at its first use: all of them are there from then on."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with importing:
            from pixir_sync.hooks import jsonlines, record, spans
        globals().update(
            JsonLines=jsonlines.JsonLines, Hook=record.Hook, TurnRecord=record.TurnRecord, OpenTelemetry=spans.OpenTelemetry
        )
        return globals()[name]

    def __dir__() -> list[str]:
        """What a shell completes."""
        return sorted({*globals(), *__all__})


__all__ = ["Hook", "JsonLines", "OpenTelemetry", "TurnRecord"]
