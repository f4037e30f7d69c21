"""Chat-style messages and input items: what both can say comes back, what one cannot say is an error."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.compare import same_item
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.items import assistant, check_history, developer, image, repair, system, tool_output, user
from pixir_sync.protocol.messages import from_messages, to_messages

Item = dict[str, Any]
SECRET = "the caller's own words"

CALL: Item = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a": 1}'}
CUSTOM: Item = {"type": "custom_tool_call", "call_id": "c2", "name": "shout", "input": "free text"}
CUSTOM_OUT: Item = {"type": "custom_tool_call_output", "call_id": "c2", "output": "LOUD"}
CHAT_CALL: Item = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
CHAT_CUSTOM: Item = {"id": "c2", "type": "custom", "custom": {"name": "shout", "input": "free text"}}
IMAGE: Item = {"type": "image_url", "image_url": {"url": "https://host/a.png", "detail": "high"}}
FILE: Item = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
AUDIO: Item = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TEXT: Item = {"type": "text", "text": "a"}
SAID: Item = {"type": "output_text", "text": "a"}
REFUSAL: Item = {"type": "refusal", "refusal": "no"}


def message(role: str, content: Any) -> Item:
    return {"type": "message", "role": role, "content": content}


# Each row: the chat-style messages, and the items; each can be made of the other.
BOTH: list[tuple[str, list[Item], list[Item]]] = [
    ("nothing", [], []),
    (
        "texts of every role",
        [{"role": role, "content": "a"} for role in ("system", "developer", "user", "assistant")],
        [system("a"), developer("a"), user("a"), message("assistant", "a")],
    ),
    ("an empty answer", [{"role": "assistant", "content": ""}], [message("assistant", "")]),
    ("parts of text", [{"role": "user", "content": [TEXT, TEXT]}], [user("a", "a")]),
    ("the assistant's parts", [{"role": "assistant", "content": [TEXT]}], [assistant("a")]),
    ("an image", [{"role": "user", "content": [TEXT, IMAGE]}], [user("a", image("https://host/a.png", detail="high"))]),
    (
        "a file",
        [{"role": "user", "content": [FILE, {"type": "file", "file": {"file_id": "f1"}}]}],
        [user({"type": "input_file", **FILE["file"]}, {"type": "input_file", "file_id": "f1"})],
    ),
    ("audio", [{"role": "user", "content": [AUDIO]}], [user(AUDIO)]),
    ("a refusal", [{"role": "assistant", "content": None, "refusal": "no"}], [message("assistant", [REFUSAL])]),
    (
        "a refusal after a text",
        [{"role": "assistant", "content": [TEXT], "refusal": "no"}],
        [message("assistant", [SAID, REFUSAL])],
    ),
    (
        "calls and their results",
        [
            {"role": "assistant", "content": "wait", "tool_calls": [CHAT_CALL, CHAT_CUSTOM]},
            {"role": "tool", "tool_call_id": "c1", "content": "seen"},
            {"role": "tool", "tool_call_id": "c2", "content": "LOUD"},
        ],
        [message("assistant", "wait"), CALL, CUSTOM, tool_output("c1", "seen"), CUSTOM_OUT],
    ),
    (
        "calls with their results between them",
        [
            {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": [TEXT, IMAGE]},
            {"role": "assistant", "content": None, "tool_calls": [CHAT_CUSTOM]},
            {"role": "tool", "tool_call_id": "c2", "content": "LOUD"},
        ],
        [CALL, tool_output("c1", ["a", image("https://host/a.png", detail="high")]), CUSTOM, CUSTOM_OUT],
    ),
]


@pytest.mark.parametrize(("messages", "items"), [row[1:] for row in BOTH], ids=[row[0] for row in BOTH])
@pytest.mark.row("A13")
def test_what_both_forms_can_say_goes_both_ways(messages: list[Item], items: list[Item]) -> None:
    """The exact items, and the exact messages again; nobody's objects are changed, and the items pass every check."""
    before = copy.deepcopy((messages, items))
    assert from_messages(messages) == items
    assert to_messages(items) == messages
    assert check_history(from_messages(messages)) == items
    assert (messages, items) == before


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ({"role": "assistant", "content": "", "tool_calls": [CHAT_CALL]}, [CALL]),
        ({"role": "assistant", "content": [], "tool_calls": [CHAT_CALL]}, [CALL]),
        ({"role": "assistant", "tool_calls": (CHAT_CALL,)}, [CALL]),
        ({"role": "assistant", "content": "a", "tool_calls": None, "function_call": None, "refusal": None, "audio": None},
         [message("assistant", "a")]),
        ({"role": "assistant", "content": "a", "refusal": ""}, [message("assistant", "a")]),
        ({"role": "assistant", "content": "a", "refusal": "no"}, [message("assistant", [SAID, REFUSAL])]),
        ({"role": "assistant", "content": [REFUSAL]}, [message("assistant", [REFUSAL])]),
        ({"role": "assistant", "content": "a", "reasoning_content": SECRET}, [message("assistant", "a")]),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "https://host/a.png"}]},
         [user([image("https://host/a.png")])]),
        ({"role": "user", "content": (TEXT,)}, [message("user", [{"type": "input_text", "text": "a"}])]),
        ({"role": "tool", "tool_call_id": "c1", "name": "look", "content": None}, [tool_output("c1", "")]),
        (MappingProxyType({"role": "user", "content": "a"}), [user("a")]),
    ],
)  # fmt: skip
@pytest.mark.row("A13")
def test_other_ways_to_say_the_same_are_understood(given: Any, items: list[Item]) -> None:
    """Nulls, empty contents beside calls, tuples, an image as a bare URL, reasoning of other servers."""
    assert from_messages([given]) == items


@pytest.mark.row("A13")
def test_the_older_form_of_calls_is_known_by_the_functions_name() -> None:
    """Used again and again, the name pairs each call with its result."""
    once: list[Item] = [
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "seen"},
    ]
    items = from_messages([*once, *once])
    pair = [{"type": "function_call", "call_id": "look", "name": "look", "arguments": "{}"}, tool_output("look", "seen")]
    assert items == [*pair, *pair]
    assert repair(items, warn=pytest.fail) is items


def test_a_call_joins_the_message_of_the_assistant_before_it() -> None:
    """As chat-style messages have it; reasoning between them is left out."""
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "sealed"}
    assert to_messages([user("a"), thought, assistant("b"), thought, CALL]) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}], "tool_calls": [CHAT_CALL]},
    ]
    assert to_messages([user("a"), CALL])[1] == {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]}


WRONG_MESSAGES: list[tuple[Any, str]] = [
    (SECRET, "messages must be a list of chat-style messages"),
    ({"role": "user", "content": SECRET}, "messages must be a list"),
    (None, "messages must be a list"),
    ([user("a"), SECRET], "messages[1] must be a mapping, not str"),
    ([{"content": SECRET}], "messages[0].role must be one of user, assistant, system, developer, tool"),
    ([{"role": SECRET}], "messages[0].role"),
    ([{"role": ["user"]}], "messages[0].role"),
    ([{"role": "user"}], "messages[0].content must be a string or a list of parts, not NoneType"),
    ([{"role": "user", "content": 5}], "messages[0].content must be"),
    ([{"role": "user", "content": "a", "name": SECRET}], "messages[0].name cannot be said"),
    ([{"role": "assistant", "content": None, "audio": {"id": SECRET}}], "messages[0].audio cannot be said"),
    ([{"role": "assistant", "content": None}], "messages[0] says nothing"),
    ([{"role": "assistant", "refusal": {"a": SECRET}}], "messages[0].refusal must be a string"),
    ([{"role": "user", "content": [SECRET]}], "messages[0].content[0] must be a mapping, not str"),
    ([{"role": "user", "content": [TEXT, {"text": SECRET}]}], "messages[0].content[1].type must be one of text, image_url"),
    ([{"role": "user", "content": [{"type": SECRET}]}], "messages[0].content[0].type"),
    ([{"role": "user", "content": [REFUSAL]}], "messages[0].content[0].type"),
    ([{"role": "assistant", "content": [IMAGE]}], "messages[0].content[0].type must be one of text, refusal"),
    ([{"role": "system", "content": [IMAGE]}], "messages[0].content[0].type must be one of text"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text must be a string, not NoneType"),
    ([{"role": "assistant", "content": [{"type": "refusal"}]}], "messages[0].content[0].refusal must be a string"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].image_url must be a mapping"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0].image_url.url"),
    ([{"role": "user", "content": [{"type": "file", "file": SECRET}]}], "messages[0].content[0].file must be a mapping"),
    ([{"role": "user", "content": [{"type": "file", "file": {}}]}], "messages[0].content[0].file must have a file_id"),
    ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].input_audio must be a mapping"),
    ([{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls must be a list, not int"),
    ([{"role": "assistant", "tool_calls": CHAT_CALL}], "messages[0].tool_calls must be a list, not dict"),
    ([{"role": "assistant", "tool_calls": [SECRET]}], "messages[0].tool_calls[0] must be a mapping"),
    ([{"role": "assistant", "tool_calls": [CHAT_CALL | {"id": ""}]}], "messages[0].tool_calls[0].id"),
    ([{"role": "assistant", "tool_calls": [{"id": "c1"}]}], "messages[0].tool_calls[0].function must be a mapping"),
    ([{"role": "assistant", "tool_calls": [{"id": "c1", "function": {}}]}], "messages[0].tool_calls[0].function.name"),
    (
        [{"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": SECRET}}}]}],
        "messages[0].tool_calls[0].function.arguments must be a string, not dict",
    ),
    ([{"role": "assistant", "tool_calls": [{"id": "c1", "custom": {"name": "f"}}]}], "messages[0].tool_calls[0].custom.input"),
    ([{"role": "assistant", "function_call": SECRET}], "messages[0].function_call must be a mapping"),
    ([{"role": "assistant", "function_call": {"name": "f"}}], "messages[0].function_call.arguments"),
    ([{"role": "tool", "content": SECRET}], "messages[0].tool_call_id must be a string that is not empty"),
    ([{"role": "function", "content": SECRET}], "messages[0].name must be a string that is not empty"),
    ([{"role": "tool", "tool_call_id": "c1", "content": {"a": SECRET}}], "messages[0].content must be"),
]


@pytest.mark.parametrize(("messages", "named"), WRONG_MESSAGES)
@pytest.mark.row("A13")
def test_a_message_that_is_wrong_is_named_by_its_place(messages: Any, named: str) -> None:
    """The message and the field, never the content; nothing is lost in silence."""
    with pytest.raises(InvalidRequest) as caught:
        from_messages(messages)
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        (SECRET.split(), "history[1] must be an item"),
        ({"type": "message", "role": "user"}, "history[1].content"),
        ({"type": "web_search_call", "id": SECRET}, "history[1].type: chat-style messages cannot say an item of this kind"),
        ({"type": "item_reference", "id": SECRET}, "history[1].type"),
        ({"type": "compaction", "encrypted_content": SECRET}, "history[1].type"),
        (user({"type": "input_image", "file_id": SECRET}), "history[1].content[0]: chat-style messages cannot say a part"),
        (user({"type": "input_file", "file_url": SECRET}), "history[1].content[0]"),
        (user({"type": "a_part_of_next_year"}), "history[1].content[0]"),
        (user({"type": "input_text"}), "history[1].content[0].text must be a string"),
        (user(REFUSAL), "history[1].content: chat-style messages can say a refusal only at the end, and as the assistant"),
        (message("assistant", [REFUSAL, SAID]), "history[1].content: chat-style"),
        (tool_output("c1", "x") | {"output": ["x"]}, "history[1].output[0]"),
    ],
)
@pytest.mark.row("A13")
def test_what_chat_style_messages_cannot_say_is_named_by_its_place(item: Any, named: str) -> None:
    """The item and the part, never the content."""
    with pytest.raises(InvalidRequest) as caught:
        to_messages([user("a"), item])
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)


# The laws.

STRINGS = st.text(max_size=5)
TEXTS = st.builds(lambda text: {"type": "text", "text": text}, STRINGS)
USER = st.builds(
    lambda role, content: {"role": role, "content": content}, st.just("user"),
    STRINGS | st.lists(TEXTS | st.sampled_from([IMAGE, FILE, AUDIO]), max_size=3),
)  # fmt: skip
GUIDES = st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "developer"]), STRINGS)
ANSWERS = st.builds(
    lambda content, refusal: {"role": "assistant", "content": content} | ({"refusal": "no"} if refusal and content != [] else {}),
    st.lists(TEXTS, min_size=1, max_size=3), st.booleans(),
)  # fmt: skip


@st.composite
def rounds(draw: st.DrawFn) -> list[Item]:
    """A round of calls with their results, under ids of its own."""
    made = draw(st.lists(st.sampled_from([CHAT_CALL, CHAT_CUSTOM]), min_size=1, max_size=3))
    number = draw(st.integers(0, 10**9))
    calls = [one | {"id": f"c{number}_{n}"} for n, one in enumerate(made)]
    content = draw(st.none() | st.lists(TEXTS, min_size=1, max_size=2) | st.text(min_size=1, max_size=5))
    outputs = [draw(STRINGS | st.lists(TEXTS, max_size=2)) for _ in calls]
    results = [{"role": "tool", "tool_call_id": one["id"], "content": said} for one, said in zip(calls, outputs, strict=True)]
    # The question keeps the calls from joining an answer that happens to stand before them.
    asked = {"role": "user", "content": "go on"}
    return [asked, {"role": "assistant", "content": content, "tool_calls": calls}, *draw(st.permutations(results))]


CHATS = st.lists(st.one_of(USER, GUIDES, ANSWERS).map(lambda one: [one]) | rounds(), max_size=6).map(
    lambda groups: [one for group in groups for one in group]
)


@given(CHATS)
@pytest.mark.row("A13")
def test_chat_style_messages_come_back_as_they_were(messages: list[Item]) -> None:
    """To items and back gives the same messages; the items are a whole history that no check refuses."""
    items = from_messages(messages)
    assert to_messages(items) == messages
    assert check_history(items) == items
    assert repair(items, warn=pytest.fail) is items


@given(CHATS)
@pytest.mark.row("A13")
def test_items_come_back_as_they_were(messages: list[Item]) -> None:
    """To messages and back gives items that mean the same to a server, one by one."""
    items = from_messages(messages)
    put_out = [item | {"id": f"item_{n}", "status": "completed"} for n, item in enumerate(items)]
    again = from_messages(to_messages(put_out))
    assert again == items
    assert all(map(same_item, again, put_out))
