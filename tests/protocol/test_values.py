"""`Value` against what dataclasses would write: equality, hash and repr of the public data classes."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync import FunctionCall, Keepalive, Network, PoolOptions, Request, Result, RetryPolicy, Timeouts, Usage
from pixir_sync.protocol.result import Evidence, made_of
from pixir_sync.protocol.values import Value

PUBLIC = [FunctionCall, Keepalive, Network, PoolOptions, Request, Result, RetryPolicy, Timeouts, Usage]


@dataclass(frozen=True, eq=False, repr=False)
class Ours(Value):
    one: Any = 1
    two: Any = "two"


Theirs = make_dataclass("Ours", [("one", Any, 1), ("two", Any, "two")], frozen=True)
values = st.one_of(st.integers(), st.text(), st.none(), st.floats(), st.lists(st.integers()))


@given(values, values, values, values)
def test_values_are_compared_and_shown_as_dataclasses_does(a: Any, b: Any, c: Any, d: Any) -> None:
    """The same for the same fields, whatever is in them."""
    assert (Ours(a, b) == Ours(c, d)) is (Theirs(a, b) == Theirs(c, d))
    assert Ours(a, b) == Ours(a, b) and repr(Ours(a, b)) == repr(Theirs(a, b))
    if not isinstance(a, list) and not isinstance(b, list):
        assert hash(Ours(a, b)) == hash(Ours(a, b)) and len({Ours(a, b), Ours(a, b)}) == 1
    else:
        with pytest.raises(TypeError, match="unhashable"):
            hash(Ours(a, b))


def test_a_value_equals_none_of_another_class() -> None:
    """Not even one with the same fields."""

    @dataclass(frozen=True, eq=False, repr=False)
    class Other(Ours):
        pass

    assert Ours() != Other() and Ours() != Theirs() and Ours() != (1, "two")


@pytest.mark.parametrize("kind", PUBLIC)
def test_the_public_classes_are_values(kind: type) -> None:
    """None of them has a form of its own."""
    assert issubclass(kind, Value) and kind.__eq__ is Value.__eq__ and kind.__hash__ is Value.__hash__


def test_settings_are_equal_by_their_fields() -> None:
    """And may be keys."""
    assert Timeouts() == Timeouts() != Timeouts(idle=1) and len({Timeouts(), Timeouts(), replace(Timeouts(), idle=1)}) == 2
    assert repr(Keepalive()) == "Keepalive(interval=20, timeout=20)"


def test_what_is_made_in_one_step_is_whole() -> None:
    """A result of a call has every field, as one made by its class."""
    from pixir_sync.protocol.assembly import ResultAssembler
    from pixir_sync.protocol.outcome import partial

    made = partial(ResultAssembler(), Evidence())
    assert vars(made).keys() == {f.name for f in fields(Result)}
    assert made == Result(provider_metadata=Evidence().to_dict())
    assert made_of(Usage, {"input_tokens": 3}) == Usage(input_tokens=3)
