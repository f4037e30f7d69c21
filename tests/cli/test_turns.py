"""``pixir-sync report``: the page has the file's own figures, needs nothing else, and shows nothing as code."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pixir_sync import PixirError, Provider, user
from pixir_sync.cli.figures import Figures, edges, percentile, read, timeline
from pixir_sync.cli.page import page, size
from pixir_sync.hooks import JsonLines
from pixir_sync.local import LocalServer, faults
from tests.cli.support import Done
from tests.support.fake import provider_for

Command = Callable[..., Done]
VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page's tables by their headings, its cards, and everything that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.cards: dict[str, str] = {}
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self._heading = ""
        self.feed(text)
        self.close()
        assert self._open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [name for name, _ in attrs if name in ("src", "href", "srcset", "action") or name.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "h2":
            self._heading = ""
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self._heading][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "h2" in self._open:
            self._heading += data
        elif "td" in self._open or "th" in self._open:
            self.tables[self._heading][-1][-1] += data
        elif self._open[-1:] == ["div"] and data.strip():
            self._card = data
        elif self._open[-1:] == ["b"]:
            self.cards[self._card] = data

    def rows(self, heading: str) -> dict[str, list[str]]:
        """The rows of a table by their first cells."""
        return {row[0]: [cell for cell in row[1:] if cell] for row in self.tables[heading]}


def turns(path: Path) -> list[dict[str, Any]]:
    """Real turns of all kinds, written down: what the file has."""
    with LocalServer() as server, JsonLines(path) as lines:
        for transport in ("websocket", "http_sse"):
            with provider_for(server, transport=transport, hooks=lines, retry=1) as provider:
                conversation(provider)
                with server.fault(faults.Refuse(status=429, code="insufficient_quota"), times=1), pytest.raises(PixirError):
                    provider.complete("too much")
                with server.fault(faults.Refuse(status=503), times=1):
                    provider.complete("again")
                with provider.stream("left") as stream:
                    next(stream)
        with server.fault(faults.RefuseUpgrade(426)), provider_for(server, hooks=lines) as provider:
            provider.complete("falls back")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def conversation(provider: Provider) -> None:
    history: list[dict[str, Any]] = []
    for turn in range(5):
        history.append(user(f"turn {turn} " + "word " * 100))
        history += provider.complete(history, session="s").output_items


def of(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_the_page_has_the_figures_of_the_file(tmp_path: Path, here: Command) -> None:
    """Of real turns, over both transports: each number is worked out here from the lines alone."""
    path = tmp_path / "turns.jsonl"
    rows = turns(path)
    with path.open("ab") as file:
        file.write(b'{"started_at": 1795')
    done = here("report", str(path))
    assert (done.status, done.out) == (0, f"{tmp_path / 'turns.html'}: {len(rows)} turns, 1 line skipped\n")
    found = Page((tmp_path / "turns.html").read_text(encoding="utf-8"))
    assert "1 line was skipped" in "".join(found.words)
    cards = found.cards
    sent, held = sum(row["bytes_sent_total"] for row in rows), sum(row["input_bytes_held"] for row in rows)
    assert held > sent / 2 > 0
    assert (cards["turns"], cards["failed"]) == (str(len(rows)), "2") and cards["sent"] == size(sent)
    assert cards["only what was new"] == str(len(of(rows, continuation="delta"))) == "4"
    assert cards["input tokens"] == f"{sum((row['usage'] or {}).get('input_tokens', 0) for row in rows):,}"
    over_time = found.rows("Turns over time")
    for name, transport, continuation in (
        ("WebSocket, delta", "websocket", "delta"), ("WebSocket, full", "websocket", "full"), ("HTTP, full", "http_sse", "full"),
    ):  # fmt: skip
        series = of(rows, active_transport=transport, continuation=continuation)
        firsts = sorted(row["first_event_ms"] for row in series if row["first_event_ms"] is not None)
        assert over_time[name][0] == str(len(series)) and firsts
        told = found.rows("First event")[name]
        assert told[0] == str(len(firsts))
        for cell, share in zip(told[1:], (0.5, 0.9, 0.99), strict=True):
            measured = percentile(firsts, share)
            assert float(cell.removesuffix(" ms")) == pytest.approx(measured, abs=0.51 if measured >= 10 else 0.051)
    assert found.rows("Bytes") == {"sent": [size(sent)], "not sent again, estimated": [size(held)]}
    assert found.rows("Errors") == {"kind": ["count"], "quota_exceeded": ["2"]}
    assert found.rows("Fallbacks to HTTP")["websocket_unsupported"] == ["1"]
    assert found.rows("Sent again")["overloaded"] == [str(sum(row["replays"].get("overloaded", 0) for row in rows))] == ["2"]
    resets = found.rows("Why everything was sent")
    assert sum(int(count[0]) for reason, count in resets.items() if reason != "reason") == sum(
        row["continuation_reset_reason"] is not None for row in rows
    )
    assert found.rows("How the others ended") == {"end": ["count"], "stop": [str(len(rows) - 4)], "cancelled": ["2"]}


def test_the_page_loads_nothing(tmp_path: Path, here: Command) -> None:
    """No script, no image, no link, nothing from a network; a browser is told so, too; light and dark."""
    path = tmp_path / "turns.jsonl"
    path.write_text('{"started_at": 1795000000.5}\n')
    done = here("report", str(path), "-o", "-")
    assert done.status == 0
    found = Page(done.out)
    assert found.links == [] and not {"script", "img", "link", "iframe", "object", "embed", "use", "image"} & set(found.tags)
    assert not re.search(r"https?://|url\(|@import|javascript:", done.out)
    assert "default-src 'none'" in done.out and "prefers-color-scheme:dark" in done.out and "width=device-width" in done.out
    assert list(tmp_path.iterdir()) == [path]


EVIL = "<script>alert(1)</script>\"'&"


def test_every_value_is_escaped(tmp_path: Path) -> None:
    """Of a file that somebody else wrote: every name that it can bring onto the page, and its own."""
    row = {"started_at": 1795000000, "active_transport": EVIL, "continuation": EVIL, "error_kind": EVIL, "fallback_reason": EVIL,
           "continuation_reset_reason": EVIL, "model": EVIL, "replays": {EVIL: 3}, "first_event_ms": 5}  # fmt: skip
    other = {"started_at": 1795000001, "finish_reason": EVIL}
    text = page(read([json.dumps(row).encode(), json.dumps(other).encode()]), EVIL)
    found = Page(text)
    assert "script" not in found.tags and EVIL not in text and "<script" not in text
    assert "".join(found.words).count(EVIL) >= 10


ODD: list[dict[str, Any]] = [
    {}, {"started_at": "now"}, {"started_at": True}, {"started_at": -1}, {"started_at": 1e300}, {"started_at": None},
    {"started_at": 10**12}, {"started_at": 10**400},
]  # fmt: skip


@pytest.mark.parametrize("row", ODD)
def test_what_is_no_record_is_skipped(row: dict[str, Any]) -> None:
    """Without a time it is none."""
    found = read([json.dumps(row).encode(), b"[]", b"5", b"\xff", b"\n", b'{"started_at": 5}'])
    assert (found.turns, found.skipped) == (1, 4)


def test_values_of_a_wrong_type_count_for_nothing() -> None:
    """The turn counts, and each value that is what it should be."""
    wrong: list[Any] = [None, "x", [], {}, -5, 1e300, True]
    names = ["active_transport", "continuation", "first_event_ms", "bytes_sent_total", "input_bytes_held", "attempts", "usage",
             "error_kind", "finish_reason", "fallback_reason", "continuation_reset_reason", "model", "replays"]  # fmt: skip
    rows = [{"started_at": 1.0, **dict.fromkeys(names, value)} for value in wrong]
    rows.append({"started_at": 2.0, "usage": {"input_tokens": "x", "output_tokens": 7}, "replays": {"a": "x", "b": 2}})
    found = read(json.dumps(row).encode() for row in rows)
    assert found.turns == len(rows) and (found.tokens["input_tokens"], found.tokens["output_tokens"]) == (0, 7)
    assert found.replays["b"] == 2 and found.sums["attempts"] == 0
    Page(page(found, "turns"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "no turn is in it (0 lines skipped)"), (b"\x00\xff\nno\n", "it (2 lines skipped)")],
)
def test_a_bad_file_is_one_line(tmp_path: Path, here: Command, content: bytes | None, said: str) -> None:
    """On standard error, with the file's name, and no page."""
    path = tmp_path / "turns.jsonl"
    if content is not None:
        path.write_bytes(content)
    done = here("report", str(path))
    assert done.failed_with(said) and str(path) in done.err and not (tmp_path / "turns.html").exists()


def test_other_bad_places_are_one_line_too(tmp_path: Path, here: Command) -> None:
    """A directory, a page where none can be, and a page over the file itself, whatever it is called."""
    path = tmp_path / "turns.html"
    path.write_text('{"started_at": 1795000000}\n')
    assert here("report", str(tmp_path)).failed_with("Is a directory")
    assert here("report", str(path)).failed_with("say with -o")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert here("report", str(path), "-o", str(link)).failed_with("say with -o")
    assert here("report", str(path), "-o", str(tmp_path / "no" / "x.html")).failed_with("No such file")
    assert path.read_text() == '{"started_at": 1795000000}\n'
    assert here("report").status == 2
    refused = here("--json", "report", str(path), "-o", "-")
    assert refused.status == 2 and "report calls nobody" in refused.err


def test_only_a_report_gives_way_to_a_report(tmp_path: Path, here: Command) -> None:
    """Another page that has the name is not written over, unless it is named."""
    path, other = tmp_path / "notes.jsonl", tmp_path / "notes.html"
    path.write_text('{"started_at": 1795000000}\n')
    other.write_text("<h1>Notes</h1>")
    assert here("report", str(path)).failed_with(f"{other} exists, and is no report: say with -o")
    assert other.read_text() == "<h1>Notes</h1>"
    assert here("report", str(path), "-o", str(other)).status == 0
    path.write_text('{"started_at": 1795000000}\n' * 3)
    assert here("report", str(path)).out == f"{other}: 3 turns, 0 lines skipped\n"
    assert Page(other.read_text(encoding="utf-8")).cards["turns"] == "3"


def test_the_turns_may_come_through_a_pipe(tmp_path: Path, command: Command) -> None:
    """Then the page goes to standard output, or where it is said to."""
    turn = '{"started_at": 1795000000}\n'
    done, out = command("report", "-", stdin=turn), tmp_path / "out.html"
    assert (done.status, done.err) == (0, "") and "Turns in standard input" in Page(done.out).words
    assert command("report", "-", "-o", str(out), stdin=turn).out == f"{out}: 1 turn, 0 lines skipped\n"
    assert out.read_text(encoding="utf-8") == done.out
    assert command("report", "-", stdin="").failed_with("standard input: no turn is in it")


def test_the_real_command_draws_it(tmp_path: Path, command: Command) -> None:
    """In a process of its own."""
    path = tmp_path / "turns.jsonl"
    path.write_text('{"started_at": 1795000000}\n')
    done = command("report", str(path), "-o", str(tmp_path / "out.html"))
    assert (done.status, done.err) == (0, "") and "1 turn, 0 lines skipped" in done.out
    Page((tmp_path / "out.html").read_text(encoding="utf-8"))


def test_percentiles_are_times_that_were_measured() -> None:
    """Nearest ranks."""
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0, 0.5, 0.9, 0.99, 1)] == [1, 50, 90, 99, 100]
    assert [percentile([7.0], share) for share in (0.5, 0.99)] == [7, 7]


@pytest.mark.parametrize("values", [[0.0], [0.3, 7], [1], [999, 5000], [10.0**14]])
def test_the_classes_hold_every_value(values: list[float]) -> None:
    """Each lies below the last bound, and the bounds rise."""
    bounds = edges(values)
    assert bounds == sorted(set(bounds)) and all(value < bounds[-1] for value in values)


@pytest.mark.parametrize("span", [0, 0.5, 59, 3_600, 86_400 * 3, 86_400 * 400, 86_400 * 365 * 90])
def test_the_steps_of_time_hold_every_turn(span: float) -> None:
    """Some forty at most, whatever the file's period, with none left out."""
    found = read(json.dumps({"started_at": 1_000_000 + span * part / 7}).encode() for part in range(8))
    length, steps = timeline(found)
    assert 1 <= len(steps) <= 41 and sum(sum(step.counts.values()) for step in steps) == 8
    assert [step.at for step in steps] == [steps[0].at + length * at for at in range(len(steps))]


def test_only_what_was_sent_in_full_has_a_reason_for_it() -> None:
    """Not a turn that was about to send everything, and never connected."""
    rows = [{"started_at": 1.0, "active_transport": "websocket", "continuation": how, "continuation_reset_reason": "lost"}
            for how in ("full", None, "delta")]  # fmt: skip
    found = read(json.dumps(row).encode() for row in rows)
    assert found.resets == {"lost": 1} and found.started["websocket", "nothing sent"] == [1.0]


def test_what_is_rare_is_folded() -> None:
    """Of many series and many names the largest are shown, the rest as one: the page stays small, and no turn is left out."""
    rows: list[dict[str, Any]] = [
        {"started_at": 1e9 + n, "active_transport": f"t{n}", "continuation": "delta", "model": f"m{n}", "first_event_ms": n + 1}
        for n in range(20_000)
    ]
    rows += [{**row, "finish_reason": "stop"} for row in rows[:10]]
    began = time.process_time()
    text = page(read(json.dumps(row).encode() for row in rows), "turns")
    assert time.process_time() - began < 10 and len(text) < 300_000
    found = Page(text)
    assert found.cards["turns"] == found.cards["only what was new"] == "20,010"
    for heading in ("Turns over time", "First event", "Models"):
        table = found.rows(heading)
        others = {name: cells[0] for name, cells in table.items() if "others" in name}
        assert others == {"19,950 others" if heading == "Models" else "others": "19,950"} and len(table) == 52
        assert table["m3" if heading == "Models" else "t3, delta"][0] == "2"


@pytest.mark.parametrize(
    ("first", "span", "labels"),
    [
        ("2026-11-21 12:00:00", 5, ["12:00:00", "12:00:01"]),
        ("2026-11-21 12:00:00", 1_000, ["12:00", "12:01"]),
        ("2026-11-21 23:59:50", 15, ["11-21 23:59:50", "11-22 00:00:00"]),
        ("2026-11-21 23:00:00", 7_000, ["11-21 23:00", "11-22 00:00"]),
        ("2026-11-21 00:00:00", 86_400 * 5, ["11-21 00:00", "11-22 06:00"]),
        ("2025-12-31 12:00:00", 86_400, ["2025-12-31 12:00", "2026-01-01 00:00"]),
        ("2026-11-01 00:00:00", 86_400 * 20, ["11-01", "11-20"]),
        ("2025-12-01 00:00:00", 86_400 * 39, ["2025-12-01", "2026-01-04"]),
    ],
)
def test_the_time_axis_tells_its_steps_apart(first: str, span: int, labels: list[str]) -> None:
    """With the day where there are several, and the year; below the columns, and in what is shown of each."""
    began = datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp()
    text = page(read(json.dumps({"started_at": began + at}).encode() for at in range(0, span + 1, max(1, span // 80))), "turns")
    shown = re.findall(r"<title>(.*?), none, nothing sent: ", text)
    assert shown[0] == labels[0] and labels[1] in shown and len(set(shown)) == len(shown)
    assert f">{labels[0]}</text>" in text


def test_no_figure_is_lost_between_two_files() -> None:
    """Figures begin empty: nothing is shared by two of them."""
    first = Figures()
    first.add({"started_at": 1.0, "error_kind": "closed"})
    assert (first.turns, first.failed, Figures().turns, Figures().failed) == (1, 1, 0, 0)
