"""The SSE adapter in front of the real parser: any chunking, any line ends, all that sseclient would stumble over."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
import sseclient
from hypothesis import given, settings
from hypothesis import strategies as st

from pixir_sync.protocol.errors import FrameTooLarge, InvalidResponse, PixirError
from pixir_sync.protocol.sse import EventBlocks, EventDecoder

WIRE = sorted((Path(__file__).parents[1] / "data" / "wire").glob("*.sse"))
BOM = b"\xef\xbb\xbf"
UNIFORM = re.compile(rb"((event: ?[\w.\-]+\n)?data:[^\r\n]*\n\n)*")
ONE, TWO = {"type": "a", "n": 1}, {"type": "b", "n": 2}
A, B = b'data: {"type":"a","n":1}', b'data: {"type":"b","n":2}'


def read(chunks: list[bytes], limit: int = 64 << 20) -> tuple[list[dict[str, Any]], int, type[PixirError] | bool]:
    """All events of a body, the number of malformed ones, and how it ended: finish()'s answer or the error's class."""
    blocks, decoder = EventBlocks(limit), EventDecoder(sseclient.SSEClient)
    events: list[dict[str, Any]] = []
    malformed = 0
    try:
        for chunk in chunks:
            block = blocks.push(chunk)
            assert UNIFORM.fullmatch(block)
            found, bad, _ = decoder.decode(block)
            events += found
            malformed += bad
        return events, malformed, blocks.finish()
    except PixirError as error:
        return events, malformed, type(error)


def sliced(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in zip(edges, edges[1:], strict=False)]


TABLE = {
    "lf": (A + b"\n\n" + B + b"\n\n", [ONE, TWO]),
    "crlf": (A + b"\r\n\r\n" + B + b"\r\n\r\n", [ONE, TWO]),
    "cr": (A + b"\r\r" + B + b"\r\r", [ONE, TWO]),
    "mixed: LF then CRLF, which sseclient merges": (A + b"\n\r\n" + B + b"\n\r\n", [ONE, TWO]),
    "mixed: CR then LF is one line end": (b"event: x\r\n" + A + b"\r\r\n" + B + b"\n\r", [ONE, TWO]),
    "mixed: CR, CRLF": (A + b"\r\r\n" + B + b"\r\n\n", [ONE, TWO]),
    "BOM, with which sseclient loses the first event": (BOM + A + b"\n\n" + B + b"\n\n", [ONE, TWO]),
    "BOM alone": (BOM, []),
    "no body": (b"", []),
    "blank lines before and between": (b"\n\n\r\n" + A + b"\n\n\n\n\n" + B + b"\n\n\n", [ONE, TWO]),
    "comments": (b": hello\n\n:\n" + A + b"\n: within\n\n:\n\n" + B + b"\n\n: bye\n\n", [ONE, TWO]),
    "id and retry": (b"id: 7\nretry: 10\n" + A + b"\n\nid\n" + B + b"\n\n", [ONE, TWO]),
    "unknown fields": (b"datum: x\nfoo\n" + A + b"\n\nDATA: {}\n\n", [ONE]),
    "multi-line data": (b'data: {"type":\ndata: "a",\ndata\ndata:"n":1}\n\n' + B + b"\n\n", [ONE, TWO]),
    "no space after the colon": (A.replace(b": {", b":{", 1) + b"\n\n", [ONE]),
    "[DONE]": (A + b"\n\ndata: [DONE]\n\n", [ONE]),
    "[DONE] with space": (A + b"\n\ndata:  [DONE] \n\n", [ONE]),
    "no [DONE]": (A + b"\n\n", [ONE]),
    "event line": (b"event: a\n" + A + b"\n\n", [ONE]),
    "type from the event line": (b'event: a\ndata: {"n":1}\n\n', [{"type": "a", "n": 1}]),
    "null type from the event line": (b'event: a\ndata: {"n":1,"type":null}\n\n', [{"type": "a", "n": 1}]),
    "the last event line counts": (b'event: x\nevent: a\ndata: {"n":1}\n\n', [{"type": "a", "n": 1}]),
    "event line after the data": (b'data: {"n":1}\nevent: a\n\n', [{"type": "a", "n": 1}]),
    "own type before the event line's": (b"event: x\n" + A + b"\n\n", [ONE]),
    "the event line says what the data says": (b"event: a\n" + A + b"\n\nevent: a\n" + B + b"\n\n", [ONE, TWO]),
    "the event line says what an earlier value says": (b'event: a\ndata: {"type":"a","type":"b","n":2}\n\n', [TWO]),
    "the data ends like an event line": (b'data: {"type":"a","n":1}\nx: event: a\n' + b"\n" + B + b"\n\n", [ONE, TWO]),
    "keepalive by name": (b"event: keepalive\ndata: {}\n\n" + A + b"\n\n", [ONE]),
    "keepalive without data": (b"event: keepalive\n\n" + A + b"\n\n", [ONE]),
    "keepalive by type": (b'data: {"type":"keepalive"}\n\n' + A + b"\n\n", [ONE]),
    "empty data": (b"data:\n\ndata\n\n" + A + b"\n\n", [ONE]),
    "unfinished last event, which sseclient dispatches": (A + b"\n\n" + B + b"\n", [ONE]),
    "U+2028, U+2029, U+0085 and form feed end no line": (
        'data: {"type":"t","x":"\u2028\u2029\x85"}\n\n:\fdata: {}\n\ndata: {"type":"u"}\n\n'.encode(),
        [{"type": "t", "x": "\u2028\u2029\x85"}, {"type": "u"}],
    ),
}


@pytest.mark.row("C3")
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("name", TABLE)
def test_body_gives_these_events(name: str, size: int) -> None:
    """Each form of a body gives exactly its events, in chunks of any size, and counts nothing as malformed."""
    body, expected = TABLE[name]
    events, malformed, _ = read(sliced(body, size))
    assert (events, malformed) == (expected, 0)


@pytest.mark.row("C2", "C3")
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("path", WIRE, ids=lambda path: path.name)
def test_recorded_bodies_at_all_chunk_sizes(path: Path, size: int) -> None:
    """The recorded bodies give every JSON object of their data lines, to the last event, whatever the chunks."""
    body = path.read_bytes()
    expected = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b'data: {"')]
    events, malformed, unfinished = read(sliced(body, size))
    assert events == expected
    assert events[-1]["type"] in ("response.completed", "response.failed")
    assert (malformed, unfinished) == (0, False)


@pytest.mark.row("C2", "C3")
@settings(max_examples=60, deadline=None)
@given(path=st.sampled_from(WIRE), places=st.lists(st.integers(0, 9_000)), end=st.sampled_from([b"\n", b"\r", b"\r\n"]))
def test_recorded_bodies_in_any_chunking(path: Path, places: list[int], end: bytes) -> None:
    """A recorded body, with any line ends and cut anywhere, gives the same events as in one piece."""
    body = path.read_bytes()
    whole = read([body])
    assert len(whole[0]) >= 1
    assert read(cut(body.replace(b"\n", end), places)) == whole


_text = st.text(alphabet=st.sampled_from("ab \t:{}é€😀\u2028\u2029\x85\ufeff\\\"'"), max_size=8)
_payload = st.fixed_dictionaries({"type": _text, "x": _text}).map(lambda value: json.dumps(value, ensure_ascii=False))
_line = st.one_of(
    _payload.map(lambda text: "data: " + text),
    _payload.map(lambda text: "data:" + text),
    st.sampled_from(["data: {", 'data: "type": "m"', "data: }", "data", "data: [DONE]", "event: x", "event", "id: 1"]),
    st.sampled_from(["event: a", "event:a", 'data: {"type":"a","x":1}', 'data: {"type":"a"}', 'data:{"type": "a"}']),
    _text.map(lambda text: ":" + text),
    _text,
    st.just(""),
)
_body = st.lists(st.tuples(_line, st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\r", "\n\r\n"])), max_size=20).map(
    lambda parts: "".join(line + end for line, end in parts).encode()
)


def by_the_book(body: bytes) -> tuple[list[tuple[str, str]], bool]:
    """The (event, data) pairs of the specification's algorithm, line by line, and whether the last is unfinished."""
    text = body.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    *lines, rest = text.split("\n")
    found: list[tuple[str, str]] = []
    data: list[str] = []
    name, begun = "", False
    for line in lines:
        if not line:
            if data:
                found.append((name or "message", "\n".join(data)))
            data, name, begun = [], "", False
            continue
        begun = begun or not line.startswith(":")
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")
    return found, begun or bool(rest and not rest.startswith(":"))


def expected_events(pairs: list[tuple[str, str]]) -> tuple[list[dict[str, Any]], int]:
    events, malformed = [], 0
    for name, data in pairs:
        if name == "keepalive" or data.strip() in ("", "[DONE]"):
            continue
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            malformed += 1
            continue
        if "type" not in event:
            if name == "message":
                malformed += 1
                continue
            event["type"] = name
        events.append(event)
    return events, malformed


@pytest.mark.row("C2", "C3")
@settings(max_examples=400, deadline=None)
@given(body=_body, bom=st.booleans(), places=st.lists(st.integers(0, 1_000), max_size=12))
def test_any_stream_in_any_chunking_is_read_by_the_book(body: bytes, bom: bool, places: list[int]) -> None:
    """Generated streams give what the specification's own algorithm gives, whole, in random pieces and byte by byte."""
    body = BOM + body if bom else body
    pairs, unfinished = by_the_book(body)
    for chunks in ([body], cut(body, places), sliced(body, 1)):
        assert read(chunks) == (*expected_events(pairs), unfinished)


@pytest.mark.row("C3")
@settings(max_examples=200, deadline=None)
@given(body=_body, junk=st.binary(max_size=6), where=st.integers(0, 1_000), limit=st.integers(1, 60), data=st.data())
def test_faults_do_not_depend_on_chunks(body: bytes, junk: bytes, where: int, limit: int, data: st.DataObject) -> None:
    """With bad bytes in it and a small limit, a body gives the same events and then the same error in any chunking."""
    body = body[: where % (len(body) + 1)] + junk + body[where % (len(body) + 1) :]
    places = data.draw(st.lists(st.integers(0, 1_000), max_size=8))
    whole = read([body], limit)
    assert read(cut(body, places), limit) == whole
    assert read(sliced(body, 1), limit) == whole


@pytest.mark.row("C3")
@pytest.mark.parametrize(
    "junk", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"], ids=["byte", "half", "surrogate", "overlong"]
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_bad_utf8_is_invalid_response(junk: bytes, size: int) -> None:
    """Bytes that are not UTF-8 raise InvalidResponse, after the events before them, and the message quotes nothing."""
    blocks = EventBlocks()
    events: list[dict[str, Any]] = []
    with pytest.raises(InvalidResponse) as caught:
        for chunk in [*sliced(A + b'\n\ndata: {"type":"sentinel' + junk + b'"}\n\n', size), b""]:
            events += EventDecoder(sseclient.SSEClient).decode(blocks.push(chunk))[0]
    assert events == [ONE]
    assert blocks.error is caught.value
    assert "sentinel" not in str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
    with pytest.raises(InvalidResponse):
        blocks.finish()


@pytest.mark.row("C3")
def test_characters_split_over_chunks_are_whole() -> None:
    """A character whose bytes come in different chunks is neither lost nor an error."""
    body = 'data: {"type":"t","x":"é€😀"}\n\n'.encode()
    assert read(sliced(body, 1)) == ([{"type": "t", "x": "é€😀"}], 0, False)


@pytest.mark.row("C3")
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_event_size_limit_is_exact(size: int) -> None:
    """An event of exactly the limit passes; one byte more is FrameTooLarge, after the events before it."""
    fits = A + b"\n"
    assert read(sliced((fits + b"\n") * 3, size), len(fits)) == ([ONE] * 3, 0, False)
    assert read(sliced(fits + b"\n" + A + b" \n\n" + fits + b"\n", size), len(fits)) == ([ONE], 0, FrameTooLarge)
    assert read(sliced(fits + b"\n" + A + b"  ", size), len(fits)) == ([ONE], 0, FrameTooLarge)


@pytest.mark.row("C3")
@pytest.mark.parametrize(
    ("body", "unfinished"),
    [(b"", False), (A + b"\n\n", False), (A, True), (A + b"\n", True), (A + b"\r\n\r", False), (b": bye\n", False),
     (b"\n", False), (b"\xef", True), (b"event: x\n", True)],
)  # fmt: skip
def test_finish_tells_whether_an_event_was_cut_off(body: bytes, unfinished: bool) -> None:
    """At the end of the body an unfinished event is reported and dropped; a comment or a blank line is none."""
    blocks = EventBlocks()
    blocks.push(body)
    assert blocks.finish() is unfinished
    assert blocks.finish() is False


@pytest.mark.row("C2")
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_delivered_with_the_byte_that_ends_it(end: bytes) -> None:
    """No event waits for the next chunk: a server that sends event n+1 only after event n was seen does send it."""
    blocks, decoder = EventBlocks(), EventDecoder(sseclient.SSEClient)
    for _ in range(3):
        assert blocks.push(A + end) == b""
        assert decoder.decode(blocks.push(end[:1])) == ([ONE], 0, False)
        assert blocks.push(end[1:]) == b""


@pytest.mark.row("C2")
@pytest.mark.parametrize("extra", [b"", b": comment\n\n"], ids=["uniform", "not uniform"])
def test_the_parser_gets_no_event_line_that_the_data_says_again(extra: bytes) -> None:
    """A name that is the type, where the data begins with it, is left out; any other stays, for it may be needed."""
    kept = [b"event: b\n" + A]
    kept += [b"event: a\ndata: " + data for data in (b'{"n":1}', b'{"n":1,"type":"a"}', b'{"type":"ab"}')]
    block = b"".join(part + b"\n\n" for part in [b"event: a\n" + A, *kept, b"event:b\n" + B])
    assert EventBlocks().push(extra + block) == b"".join(part + b"\n\n" for part in [A, *kept, B])


_echo = st.sampled_from([b'event: a\ndata: {"type":"a","n":1}', b'event: a\ndata: {"type":"a"', b"event: b\n" + B, A, b": x"])
_echoes = st.lists(st.tuples(_echo, st.sampled_from([b"\n\n", b"\n\n", b"\n\n\n", b"\n: x\n\n", b"}\n\n", b"\n"])), max_size=8)


@pytest.mark.row("C2", "C3")
@settings(max_examples=200, deadline=None)
@given(parts=_echoes, places=st.lists(st.integers(0, 300), max_size=6))
def test_runs_of_events_that_begin_alike_are_read_by_the_book(parts: list[tuple[bytes, bytes]], places: list[int]) -> None:
    """Events with their name in the data, among others, in any chunks: nothing is lost, merged or taken for another."""
    body = b"".join(event + end for event, end in parts)
    pairs, unfinished = by_the_book(body)
    for chunks in ([body], cut(body, places), sliced(body, 45)):
        assert read(chunks) == (*expected_events(pairs), unfinished)


@pytest.mark.row("C2")
@pytest.mark.parametrize("kind", ["response.completed", "response.failed", "error"])
def test_the_decoder_tells_that_the_response_has_ended(kind: str) -> None:
    """Wherever in its block the terminal event stands, and whether the data or the event line names it."""
    decoder = EventDecoder(sseclient.SSEClient)
    assert decoder.decode(A + b"\n\n")[2] is False
    for last in (b'data: {"type":"%s"}\n\n' % kind.encode(), b"event: %s\ndata: {}\n\n" % kind.encode()):
        assert decoder.decode(A + b"\n\n" + last + B + b"\n\n") == ([ONE, {"type": kind}, TWO], 0, True)
    assert decoder.decode(B + b"\n\n") == ([TWO], 0, False)


@pytest.mark.row("A19")
def test_malformed_events_are_counted_and_skipped() -> None:
    """Data that is no JSON object is counted; the events around it come through."""
    junk = [b"{", b"nonsense", b"[1]", b"1", b'"x"', b"null", b'{"a":NaN}', b'{"a":"x\ndata: y"}']
    junk += [b"9" * 5_000, b"[" * 100_000]  # each makes the standard library's decoder raise in a way of its own
    junk += [b'{"n":1}', b'{"n":1,"type":null}', b'{"n":1,"type":["a"]}']  # of no type: nobody could tell what it is
    junk += [b'{"n":1}\nevent:', b'{"n":1}\n\nevent: a']  # an empty name is none, and a name does not outlive its event
    body = A + b"\n\n" + b"".join(b"data: " + text + b"\n\n" for text in junk) + B + b"\n\n"
    assert read([body]) == ([ONE, TWO], len(junk), False)


@pytest.mark.row("A26", "C3")
def test_nothing_of_the_content_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the root logger at DEBUG, no data, comment, id, unknown field or strange event name reaches the log."""
    lines = [b'data: {"type":"x","text":"SENTINEL"}', b": SENTINEL", b"SENTINEL: x", b"id: SENTINEL", b"SENTINEL",
             b"event: a SENTINEL b", b"data: SENTINEL", b'data: {"SENTINEL', b"retry: SENTINEL"]  # fmt: skip
    body = b"".join(a + b"\n" + b + b"\n\n" for a in lines for b in lines) + b"data: SENTINEL"
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("sseclient").debug("heard")
        events, malformed, unfinished = read([body])
        read(sliced(body, 7))
    assert events and malformed and unfinished is True
    assert "heard" in caplog.text
    assert "SENTINEL" not in caplog.text


@pytest.mark.row("C3")
@pytest.mark.parametrize("shape", ["one line", "many lines", "cr"])
def test_a_huge_event_in_tiny_chunks_takes_linear_time(shape: str) -> None:
    """Two megabytes in 64-byte chunks, as one line or as 200,000, are read within two seconds of processor time."""
    end = b"\r" if shape == "cr" else b"\n"
    filler = b'",\ndata: "x' * 200_000 if shape == "many lines" else b"x" * (2 << 20)
    body = b'data: {"type":"t","x":["' + filler + b'"]}' + end + end
    start = time.process_time()
    events, malformed, unfinished = read(sliced(body, 64))
    assert time.process_time() - start < 2
    assert (len(events), malformed, unfinished) == (1, 0, False)
    assert sum(map(len, events[0]["x"])) >= 200_000
