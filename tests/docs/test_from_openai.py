"""The page for those who come from the official SDK cites only names of ours that exist; tests/interop has the other half."""

from __future__ import annotations

import asyncio
import re
from typing import Any, get_args

import pytest

import pixir_sync
from pixir_sync import FunctionCall, InvalidRequest, PixirError, Provider, ProviderConfig, ResponseStream, Result, Usage
from pixir_sync.protocol.events import EVENT_TYPES, FunctionCallDelta, ItemDone, Terminal, TextDelta
from pixir_sync.protocol.request import make_request
from pixir_sync.protocol.result import Evidence, FinishReason
from tests.support.cited import Names, blocks, column, pairs, section

EVENT = {"type": "any"}


def takes(callee: Any, keyword: str) -> bool:
    """Whether a method of `Provider`, or the class, takes a keyword that its signature does not name."""
    if callee is Provider:
        return keyword == "config" or keyword in ProviderConfig.__dataclass_fields__
    try:
        make_request(None, {keyword: None})
    except InvalidRequest:
        return False
    return True


OURS = Names(
    roots={
        "provider": Provider(model="m", api_key="k"),
        "complete": Provider(model="m", api_key="k").stream,
        "provider.complete": Provider(model="m", api_key="k").stream,  # which takes the same arguments, by its own word
        "stream": ResponseStream,
        "event": tuple(kind(EVENT) for kind in (TextDelta, FunctionCallDelta, ItemDone, Terminal)),
        "result": Result(usage_summary=Usage().to_dict(), provider_metadata=Evidence().to_dict(), response={}, parsed=object()),
        "error": PixirError("an error"),
        "asyncio": asyncio,
        "call": FunctionCall("call_1", "f", {}, "{}"),
    },
    module=pixir_sync,
    strings={*get_args(FinishReason), *EVENT_TYPES, *Evidence().to_dict()},
    more=takes,
)


def test_every_name_of_ours_exists() -> None:
    """Each name, attribute, keyword and key of the right column."""
    spans = column(1)
    assert len(spans) > 80
    for span in spans:
        OURS.look_up(span)


def test_the_parameters_of_the_same_name_are_taken() -> None:
    """Those of which the page says so."""
    same = re.findall(r"`(\w+)`", section("Parameters").split("\n|")[0].replace("Those of `create`", ""))
    assert len(same) > 20
    for name in same:
        make_request(None, {name: None})


def test_every_program_of_theirs_has_one_of_ours() -> None:
    """Side by side; tests/interop runs both."""
    assert len(pairs()) == blocks() > 5


@pytest.mark.parametrize(
    "span",
    ["provider.compleet()", "Provider(timeout=3)", "complete(temprature=1)", "Nothing", "result.txt", '"stopped"',
     "Timeouts(read=1)", 'result.provider_metadata["nothing"]', "Provider(timeouts=Timeouts(read=1))", "not python", "1 + 1"],
)  # fmt: skip
def test_a_wrong_name_is_seen(span: str) -> None:
    """Without this the check above might check nothing."""
    with pytest.raises(LookupError):
        OURS.look_up(span)


def test_the_columns_are_told_apart() -> None:
    """Only of tables with this head, and each cell by itself."""
    text = "`no`\n\n| openai | pixir_sync |\n|---|---|\n| `a`, `b` | `c`: d |\n\n| other | table |\n|---|---|\n| `e` | `f` |\n"
    assert (column(0, text), column(1, text)) == (["a", "b"], ["c"])
