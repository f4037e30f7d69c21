"""The error tree: what its docstring draws, and what every class of it can do."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import pytest

from pixir_sync.protocol import errors
from pixir_sync.protocol.errors import MESSAGE_LIMIT, DeadlineExceeded, PixirError, ProviderError
from pixir_sync.protocol.result import Result

PROMPT = "SENTINEL-prompt"
FACTS: dict[str, Any] = {
    "details": {"plan_type": "plus", "attempts": [1, 2]},
    "code": "some_code",
    "retryable": True,
    "phase": "stream",
    "request_sent": True,
    "output_seen": True,
    "status": 429,
    "retry_after": 1.5,
    "response_id": "resp_1",
    "request_id": "req_1",
}


def family(cls: type[PixirError]) -> list[type[PixirError]]:
    """A class and everything below it."""
    below = [found for child in cls.__subclasses__() for found in family(child)]
    return [cls, *(found for found in below if found.__module__ == errors.__name__)]


TREE = family(PixirError)
EVERY = pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)


def drawn() -> dict[str, tuple[str, str]]:
    """The docstring's drawing: class -> (its parent, its kind). Depth is the column of the branch."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("::\n", 1)[1].split("Rules kept here", 1)[0]
    found: dict[str, tuple[str, str]] = {}
    parents = {-1: ""}
    previous = ""
    for line in filter(str.strip, drawing.splitlines()):
        branch = re.search(r"[├└]", line)
        depth = -1 if branch is None else branch.start()
        parent = parents[max((d for d in parents if d < depth), default=-1)] if depth >= 0 else ""
        plain = re.sub(r"\(also[^)]*\)", "", line)
        for inner, (name, kind) in enumerate(re.findall(r"([A-Z]\w+)(?: ([a-z_]+))?", plain)):
            inside = re.search(rf"\(\s*{name}\b", line)
            found[name] = (previous if inside else parent, kind)
            previous = name
            if inner == 0:
                parents = {d: p for d, p in parents.items() if d < depth} | {depth: name}
    return found


def test_the_drawing_is_the_tree() -> None:
    """Every class stands in the module's docstring, under its parent and with its kind, and nothing else does."""
    classes = {}
    for cls in TREE:
        base = next((b.__name__ for b in cls.__bases__ if issubclass(b, PixirError)), "")
        classes[cls.__name__] = (base, "" if cls is PixirError else cls.kind)
    assert drawn() == classes


def test_names_and_kinds_are_unique() -> None:
    """A kind stands for one class, and each class says its own."""
    kinds = [cls.kind for cls in TREE]
    assert len(set(kinds)) == len(kinds)
    assert all("kind" in vars(cls) for cls in TREE)


def test_every_class_is_exported_and_documented() -> None:
    """What a program may catch is in ``__all__`` and says when it is raised."""
    assert {cls.__name__ for cls in TREE} <= set(errors.__all__)
    assert all(cls.__doc__ for cls in TREE)


@EVERY
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles(cls: type[PixirError], protocol: int) -> None:
    """An error crosses a process pool with all that it knows, partial result included."""
    error = cls("said", **FACTS, partial=Result(text="half"))
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert again.args == error.args == ("said",)
    assert str(again) == "said"
    assert again.to_dict() == error.to_dict()


@EVERY
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_it_copies(cls: type[PixirError], copier: Any) -> None:
    """A copy is equal in all that it knows, and is another object."""
    error = cls("said", **FACTS)
    again = copier(error)
    assert again is not error
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == "said"


@EVERY
def test_it_pickles_with_defaults_and_notes(cls: type[PixirError]) -> None:
    """Whatever Python itself hangs on an exception travels too."""
    error = cls("said")
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert again.__notes__ == ["a note"]
    assert again.retryable is cls.default_retryable


@EVERY
def test_to_dict_is_plain_json_without_the_partial(cls: type[PixirError]) -> None:
    """It survives JSON unchanged and holds everything but the result, which may hold the answer."""
    error = cls("said", **FACTS, partial=Result(text=PROMPT))
    plain = error.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain == {"kind": cls.kind, "message": "said", **FACTS}
    assert PROMPT not in json.dumps(plain)


@EVERY
def test_repr_holds_no_message(cls: type[PixirError]) -> None:
    """The message may quote the request: repr has kind, status, code and phase, and nothing of the rest."""
    error = cls(PROMPT, **{**FACTS, "details": {"body": PROMPT}}, partial=Result(text=PROMPT))
    assert PROMPT not in repr(error)
    for fact in (cls.__name__, cls.kind, "429", "some_code", "stream"):
        assert fact in repr(error)


@EVERY
def test_defaults_know_nothing(cls: type[PixirError]) -> None:
    """Only the message is needed; the rest reads as unknown, and details is nobody else's dict."""
    one, other = cls("said"), cls("said")
    one.details["x"] = 1
    assert other.details == {}
    unset = ("code", "phase", "status", "retry_after", "response_id", "request_id", "partial")
    assert [getattr(one, name) for name in unset] == [None] * len(unset)
    assert (one.request_sent, one.output_seen, one.retryable) == (False, False, cls.default_retryable)


def test_retryable_may_be_said_outright() -> None:
    """The class has a default in each direction; the server's word wins over it."""
    assert errors.RateLimited("x").retryable
    assert not errors.RateLimited("x", retryable=False).retryable
    assert not errors.QuotaExceeded("x").retryable
    assert errors.QuotaExceeded("x", retryable=True).retryable


@pytest.mark.parametrize("length", [0, 1, MESSAGE_LIMIT - 1, MESSAGE_LIMIT])
def test_a_message_within_the_limit_is_kept(length: int) -> None:
    """The limit itself is within."""
    assert ProviderError("x" * length).message == "x" * length


@pytest.mark.parametrize("length", [MESSAGE_LIMIT + 1, 10 * MESSAGE_LIMIT])
def test_a_longer_message_is_capped(length: int) -> None:
    """Exactly the limit is left, the cut is visible, and ``args`` does not keep the whole."""
    error = ProviderError("x" * length)
    assert error.message == "x" * (MESSAGE_LIMIT - 1) + "…"
    assert error.args == (error.message,)
    assert str(error) == error.message


def test_deadlines_are_timeout_errors() -> None:
    """``except TimeoutError`` catches every time limit, and nothing else of the tree."""
    assert {cls for cls in TREE if issubclass(cls, TimeoutError)} == set(family(DeadlineExceeded))


@pytest.mark.parametrize("cls", family(DeadlineExceeded), ids=lambda cls: cls.__name__)
def test_a_deadline_reads_like_the_others(cls: type[DeadlineExceeded]) -> None:
    """OSError, a base of TimeoutError, has its own idea of arguments and of str."""
    error = cls("two words")
    assert str(error) == "two words"
    assert error.args == ("two words",)
    assert error.errno is None
