"""The names that the tables of a page cite, each looked up where it comes from.

Rules kept here:

* A code span of a table is a Python expression: names, attributes, items of mappings, calls. What a name stands for is given; the
  keywords of a call are compared with the signature, and what arguments stand for is not asked, calls among them apart.
* What is not there is a `LookupError` that quotes the span.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "Names", "blocks", "column", "pairs", "section"]

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "from_openai.md"
_HEAD = "| openai | pixir_sync |"
_SPAN = re.compile(r"`([^`]+)`")
_PAIR = re.compile(
    r"^```\{code-block\} python\n:caption: openai\n(.*?)^```$\s+^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


def column(number: int, text: str | None = None) -> list[str]:
    """The code spans of one column (0: the official SDK's, 1: ours) of all the tables."""
    spans: list[str] = []
    inside = False
    for line in (PAGE.read_text(encoding="utf-8") if text is None else text).splitlines():
        inside = line == _HEAD or (inside and line.startswith("|"))
        if inside and not line.startswith(("|---", _HEAD)):
            spans += _SPAN.findall(line.strip("|").split(" | ")[number])
    return spans


def section(title: str) -> str:
    """The text under a heading, as far as the next one."""
    return PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def pairs() -> list[tuple[str, str]]:
    """The programs that stand side by side: the official SDK's, and ours."""
    return _PAIR.findall(PAGE.read_text(encoding="utf-8"))


def blocks() -> int:
    """How many programs of the official SDK the page has, with or without a fellow."""
    return PAGE.read_text(encoding="utf-8").count(":caption: openai\n")


@dataclass
class Names:
    """What names stand for: ``roots`` by (dotted) name, ``module`` for the others.

    ``strings`` are the strings that may stand by themselves; ``more`` gives further keywords of a function that takes any.
    """

    roots: Mapping[str, Any]
    module: Any
    strings: Collection[str]
    more: Callable[[Any, str], bool] = field(default=lambda callee, keyword: True)

    def look_up(self, span: str) -> None:
        """Raises LookupError for a span with something in it that does not exist."""
        try:
            expression = ast.parse(span, mode="eval").body
        except SyntaxError:
            raise LookupError(f"{span}: no expression") from None
        if isinstance(expression, ast.Constant) and expression.value not in self.strings:
            raise LookupError(f"{span}: no such string")
        if not isinstance(expression, ast.Constant):
            self._found(expression)

    def _found(self, node: ast.expr) -> Any:
        """What the expression stands for: a tuple where it may be one of several, None where that is not known."""
        written = ast.unparse(node)
        if written in self.roots:
            return self.roots[written]
        match node:
            case ast.Name(id=name):
                return getattr(builtins, name) if hasattr(builtins, name) else _member(self.module, name, written)
            case ast.Attribute(value=value, attr=name):
                return _member(self._found(value), name, written)
            case ast.Subscript(value=value, slice=ast.Constant(value=key)):
                return _item(self._found(value), key, written)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                self._check_call(self._found(function), keywords, written)
                for inner in [*arguments, *(keyword.value for keyword in keywords)]:
                    if isinstance(inner, ast.Call):
                        self._found(inner)
                return None
            case ast.Dict():
                return None
        raise LookupError(f"{written}: neither a name, an attribute, an item nor a call")

    def _check_call(self, callee: Any, keywords: list[ast.keyword], written: str) -> None:
        if callee is None or getattr(builtins, getattr(callee, "__name__", ""), None) is callee:
            return
        parameters = inspect.signature(callee).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for keyword in keywords:
            name = str(keyword.arg)
            if name not in parameters and not (takes_any and self.more(callee, name)):
                raise LookupError(f"{written}: takes no {name}")


def _item(owner: Any, key: Any, written: str) -> Any:
    if not isinstance(owner, Mapping) or key not in owner:
        raise LookupError(f"{written}: no such item")
    return owner[key]


def _member(owner: Any, name: str, written: str) -> Any:
    """The attribute; of a class, what instances have under that name."""
    seen = [member for one in (owner if isinstance(owner, tuple) else (owner,)) for member in _members(one, name)]
    if not seen:
        raise LookupError(f"{written}: no such name")
    found = tuple({id(member): member for member in seen}.values())
    return found[0] if len(found) == 1 else found


def _members(owner: Any, name: str) -> Iterator[Any]:
    fields = getattr(owner, "model_fields", {}) if isinstance(owner, type) else {}
    if name in fields:
        yield from _classes(fields[name].annotation)
    elif hasattr(owner, name):
        yield getattr(owner, name)
    elif isinstance(owner, type) and any(name in vars(base).get("__annotations__", {}) for base in owner.__mro__):
        yield None


def _classes(hint: Any) -> Iterator[Any]:
    """The classes in a type hint; None where there is none."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    elif typing.get_args(hint) and typing.get_origin(hint) is not typing.Literal:
        for part in typing.get_args(hint):
            if part is not type(None):
                yield from _classes(part)
    else:
        yield None
