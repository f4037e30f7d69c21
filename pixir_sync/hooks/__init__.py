"""Hooks: what a program is told of each turn when it has ended, and two that are ready-made: `JsonLines`, `OpenTelemetry`.

Importing this package imports no OpenTelemetry; making an `OpenTelemetry` does (extra ``otel``).
"""

from __future__ import annotations

from pixir_sync.hooks.jsonlines import JsonLines
from pixir_sync.hooks.record import Hook, TurnRecord
from pixir_sync.hooks.spans import OpenTelemetry

__all__ = ["Hook", "JsonLines", "OpenTelemetry", "TurnRecord"]
