"""Input items: what the constructors make, and how a history that is wrong is told so."""

from __future__ import annotations

import base64
import copy
import json
import time
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given

from pixir_sync.protocol import items
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.items import assistant, check_history, developer, image, system, tool_output, user
from tests.protocol.strategies import plain_json

PNG = b"\x89PNG\r\n\x1a\n0000"
SECRET = "the caller's own words"
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
CUSTOM = {"type": "custom_tool_call", "call_id": "c1", "name": "look", "input": "free text"}


def without(item: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != name}


# Making items.


def test_a_user_message_of_one_text_is_a_string() -> None:
    """The short form stays short."""
    assert user("Hi") == {"type": "message", "role": "user", "content": "Hi"}


def test_a_user_message_of_parts_keeps_their_order() -> None:
    """Strings become parts of text, parts are copied, and one list stands for its parts."""
    given = {"type": "input_file", "file_id": "f1"}
    made = user("look", image("https://host/a.png"), given)
    assert made["content"] == [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "https://host/a.png", "detail": "auto"},
        given,
    ]
    assert made["content"][2] is not given
    assert user(["look", given]) == user("look", given)
    assert user(["look"]) == user("look")


def test_the_other_roles_have_their_shapes() -> None:
    """Only the assistant's text is a part of output."""
    assert assistant("Hello") == {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
    assert developer("Be brief") == {"type": "message", "role": "developer", "content": "Be brief"}
    assert system("Be brief") == {"type": "message", "role": "system", "content": "Be brief"}


@pytest.mark.parametrize(
    ("output", "sent"),
    [
        ("done", "done"),
        ("", ""),
        ({"degrees": 21.5}, '{"degrees":21.5}'),
        (["a", "b"], '["a","b"]'),
        ([], "[]"),
        ([{"type": "other"}], '[{"type":"other"}]'),
        ({"type": ["a"]}, '{"type":["a"]}'),
        ([{"type": "input_text", "text": "a"}, 5], '[{"type":"input_text","text":"a"},5]'),
        (None, "null"),
        (True, "true"),
        (image("https://host/a.png"), [image("https://host/a.png")]),
        (["seen", image("https://host/a.png")], [{"type": "input_text", "text": "seen"}, image("https://host/a.png")]),
    ],
)
def test_a_tools_output_is_a_text_or_parts(output: Any, sent: Any) -> None:
    """A string goes as it is, parts as parts, with strings among them, and every other value as its JSON."""
    assert tool_output("c1", output) == {"type": "function_call_output", "call_id": "c1", "output": sent}


@given(plain_json)
def test_any_json_value_can_be_a_tools_output(value: Any) -> None:
    """The text says the value again, and a server takes the item."""
    made = tool_output("c1", value)
    assert check_history([made]) == [made]
    if not isinstance(value, str):
        assert json.loads(made["output"]) == value


@pytest.mark.parametrize(
    ("data", "media_type", "sent"),
    [
        (PNG, None, "image/png"),
        (bytearray(PNG), None, "image/png"),
        (memoryview(PNG), None, "image/png"),
        (b"\xff\xd8\xff\xe0", None, "image/jpeg"),
        (b"GIF89a..", None, "image/gif"),
        (b"RIFF0000WEBPVP8 ", None, "image/webp"),
        (b"BM....", "image/bmp", "image/bmp"),
        (PNG, "image/apng", "image/apng"),
    ],
)
def test_an_images_bytes_become_a_data_url(data: Any, media_type: str | None, sent: str) -> None:
    """The media type is the one given, else the one that the bytes tell."""
    url = image(data, media_type=media_type)["image_url"]
    head, body = url.split(",")
    assert head == f"data:{sent};base64"
    assert base64.b64decode(body) == bytes(data)


@pytest.mark.parametrize("source", ["https://host/a.png", "HTTP://host/a.png", "data:image/png;base64,AAAA"])
def test_an_image_of_a_url_goes_as_it_is(source: str) -> None:
    """Whatever the URL's case; the detail is sent, too."""
    assert image(source, detail="low") == {"type": "input_image", "image_url": source, "detail": "low"}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: user(), "user()"),
        (lambda: user([]), "user()"),
        (lambda: user("a", 5), "part 1 must be a string or a content part with a type, not int"),
        (lambda: user({"text": SECRET}), "part 0"),
        (lambda: assistant(None), "assistant(): text must be a string, not NoneType"),  # type: ignore[arg-type]
        (lambda: developer(5), "developer(): text"),  # type: ignore[arg-type]
        (lambda: system(b"x"), "system(): text"),  # type: ignore[arg-type]
        (lambda: tool_output("", SECRET), "call_id must be the call_id of the call"),
        (lambda: tool_output(None, SECRET), "call_id must be a string"),  # type: ignore[arg-type]
        (lambda: tool_output("c1", {"a": {SECRET}}), "output has no JSON form: a: set"),
        (lambda: tool_output("c1", float("nan")), "output has no JSON form"),
        (lambda: image("photo.png"), "read a file yourself"),
        (lambda: image(5), "image(): source must be a string, not int"),  # type: ignore[arg-type]
        (lambda: image(b"BM...."), "name the media_type"),
        (lambda: image(b""), "name the media_type"),
        (lambda: image("https://host/a.png", detail="hi"), "auto, low, high, original"),
    ],
)
def test_a_constructor_names_what_is_wrong(make: Any, named: str) -> None:
    """The function and its argument, never the content."""
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)


# Checking a history.

LEGAL: list[dict[str, Any]] = [
    user("Hi"), assistant("Hello"), developer("d"), system("s"), user("a", image("https://host/a.png")), CALL, CUSTOM,
    tool_output("c1", "x"), {"type": "custom_tool_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "x"}]},
    {"role": "user", "content": "without a type"}, {"role": "assistant", "content": []},
    {"type": "reasoning", "summary": [], "encrypted_content": "sealed"}, {"type": "item_reference", "id": "msg_1"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"}, {"type": "compaction", "encrypted_content": "sealed"},
    {"type": "computer_call", "call_id": "c1", "action": {"type": "screenshot"}}, {"type": "file_search_call"},
    {"type": "computer_call_output", "call_id": "c1", "output": {"type": "computer_screenshot", "file_id": "f1"}},
    {"type": "local_shell_call", "call_id": "c1"}, {"type": "local_shell_call_output", "id": "lsh_1", "output": "x"},
    {"type": "shell_call", "call_id": "c1"}, {"type": "shell_call_output", "call_id": "c1", "output": []},
    {"type": "apply_patch_call", "call_id": "c1"}, {"type": "apply_patch_call_output", "call_id": "c1", "status": "failed"},
    {"type": "mcp_call", "id": "mcp_1"}, {"type": "mcp_list_tools"}, {"type": "mcp_approval_request", "id": "mcpr_1"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}, {"type": "code_interpreter_call"},
    {"type": "image_generation_call", "id": "ig_1"}, {"type": "tool_search_call"}, {"type": "tool_search_output"},
    {"type": "a_kind_of_next_year"}, OrderedDict(role="user", content="an ordered one"),
]  # fmt: skip


@pytest.mark.parametrize("item", LEGAL, ids=lambda item: item.get("type", "untyped"))
def test_a_legal_item_passes_as_it_is(item: dict[str, Any]) -> None:
    """Known kinds and kinds of tomorrow alike; the item itself comes back, unchanged."""
    before = copy.deepcopy(item)
    checked = check_history([item])
    assert checked[0] is item
    assert item == before


def test_a_history_may_be_given_in_short() -> None:
    """Nothing is no items, a string is one user message, a tuple is a list; the list is a new one."""
    given_items = [user("Hi")]
    assert check_history(None) == check_history([]) == check_history(()) == []
    assert check_history("Hi") == check_history(tuple(given_items)) == given_items
    assert check_history(given_items) is not given_items


class Dumped:
    """An object of another SDK."""

    def model_dump(self) -> dict[str, Any]:
        return {}


WRONG: list[tuple[Any, str]] = [
    (5, "history must be a string or a list of items, not int"),
    (b"Hi", "not bytes"),
    (iter([user("Hi")]), "history must be a string or a list of items"),
    ("  \n", "history must not be a blank string"),
    (user(SECRET), "put it into a list"),
    ([user("Hi"), SECRET], "history[1] must be an item (a dict), not str; user(text) makes one"),
    ([None], "history[0] must be an item (a dict), not NoneType"),
    ([Dumped()], "history[0] must be an item (a dict), not Dumped; model_dump("),
    ([{"type": None, "role": "user", "content": SECRET}], "history[0].type must be a string"),
    ([{"type": ["message"]}], "history[0].type must be a string"),
    ([{"type": ""}], "history[0].type must be a string that is not empty"),
    ([{"type": "mesage", "content": SECRET}], "history[0].type is unknown; did you mean 'message'?"),
    ([{"type": "function_call_outputs", "output": SECRET}], "did you mean 'function_call_output'?"),
    ([{"type": "resoning"}], "did you mean 'reasoning'?"),
    ([{"type": "input_text", "text": SECRET}], "history[0] is a part of a message, not an item"),
    ([image("https://host/a.png")], "user() makes a message"),
    ([{"call_id": "c1", "output": SECRET}], "history[0].type is missing"),
    ([{}], "history[0].type is missing"),
    ([{"type": "message", "content": SECRET}], "history[0].role must be one of user, assistant, system, developer"),
    ([{"role": "asistant", "content": SECRET}], "did you mean 'assistant'?"),
    ([{"role": SECRET, "content": ""}], "history[0].role must be one of"),
    ([{"role": ["user"], "content": ""}], "history[0].role must be one of"),
    ([{"role": "user"}], "history[0].content must be a string or a list of parts, not NoneType"),
    ([{"role": "user", "content": {"text": SECRET}}], "history[0].content must be a string or a list of parts, not dict"),
    ([{"role": "user", "content": [SECRET]}], "history[0].content[0] must be a part (a dict with a type); user() makes"),
    ([{"role": "user", "content": [{"text": SECRET}]}], "history[0].content[0] must be a part"),
    ([{"role": "user", "content": [{"type": 5}]}], "history[0].content[0] must be a part"),
    ([without(CALL, "call_id")], "history[0].call_id must be 1 to 160 characters"),
    ([CALL | {"call_id": "c" * 161}], "history[0].call_id"),
    ([CALL | {"call_id": "c 1"}], "history[0].call_id"),
    ([CALL | {"call_id": "c1\n"}], "history[0].call_id"),
    ([CALL | {"name": ""}], "history[0].name must be the name of the tool"),
    ([CALL | {"arguments": {"a": SECRET}}], "history[0].arguments must be a string, not dict"),
    ([without(CUSTOM, "input")], "history[0].input must be a string, not NoneType"),
    ([tool_output("c1", "x") | {"call_id": ""}], "history[0].call_id"),
    ([tool_output("c1", "x") | {"output": {"a": SECRET}}], "history[0].output must be a string or a list of parts, not dict"),
    ([without(tool_output("c1", "x"), "output")], "history[0].output"),
    ([{"type": "custom_tool_call_output", "call_id": "c1"}], "history[0].output"),
    ([{"type": "computer_call", "call_id": ["c1"]}], "history[0].call_id"),
    ([{"type": "shell_call_output"}], "history[0].call_id"),
    ([{"type": "item_reference"}], "history[0].id must be the id of the item that is referred to"),
]


@pytest.mark.parametrize(("history", "named"), WRONG)
def test_what_is_wrong_is_named_by_its_place(history: Any, named: str) -> None:
    """The item, the field and the nearest name that exists; never the content."""
    with pytest.raises(InvalidRequest) as caught:
        check_history(history)
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "item",
    [
        {"role": "tool", "tool_call_id": "c1", "content": SECRET},
        {"role": "function", "name": "look", "content": SECRET},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "", "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "user", "content": [{"type": "text", "text": SECRET}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f1"}}]},
    ],
)
@pytest.mark.row("A13")
def test_a_chat_style_history_is_told_where_the_converter_is(item: dict[str, Any]) -> None:
    """The likeliest mistake of who comes from the other API."""
    with pytest.raises(InvalidRequest, match=r"history\[1\].*from_messages\(\)") as caught:
        check_history([user("Hi"), item])
    assert SECRET not in str(caught.value)


def test_a_long_history_is_checked_in_one_pass() -> None:
    """100,000 items of every kind, unknown ones too, take well under a second of this process."""
    history = [item for item in LEGAL if item.get("type") != "item_reference"] * (100_000 // (len(LEGAL) - 1) + 1)
    before = time.process_time()
    checked = check_history(history)
    assert time.process_time() - before < 1
    assert len(checked) >= 100_000


def test_a_kind_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the nearest name is slow: a history repeats its few kinds."""
    looked: list[str] = []

    def nearest(word: str, *rest: object) -> str:
        looked.append(word)
        return ""

    monkeypatch.setattr(items, "nearest", nearest)
    check_history([{"type": f"kind_{n % 3}_of_next_year"} for n in range(300)])
    assert len(looked) == 3
