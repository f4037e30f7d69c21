"""`Value`: equality, hash and repr of the public data classes, written once for all of them.

dataclasses would write these three for each class anew, as text that is compiled at every start: a fiftieth of it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

__all__ = ["Value"]


class Value:
    """Base of a frozen data class that is made with ``eq=False, repr=False``."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return vars(self) == vars(other) or _facts(self) == _facts(other)  # `made_of` leaves defaults to the class

    def __hash__(self) -> int:
        return hash((type(self), *_facts(self)))

    def __repr__(self) -> str:
        facts = zip((f.name for f in fields(self)), _facts(self), strict=True)  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in facts)})"


def _facts(value: Any) -> list[Any]:
    return [getattr(value, f.name) for f in fields(value)]
