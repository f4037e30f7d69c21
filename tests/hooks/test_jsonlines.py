"""`JsonLines`: a line for each turn, whole, whoever writes."""

from __future__ import annotations

import codecs
import errno
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pixir_sync import InvalidRequest, Provider, TurnRecord
from pixir_sync.hooks import JsonLines
from pixir_sync.local import LocalServer
from tests.support.both import TransportName
from tests.support.children import in_child
from tests.support.events import text_response
from tests.support.fake import FakeTransport, provider_for

WHOLE = text_response("Hello")


def rows(path: Path) -> list[dict[str, Any]]:
    """Every line of the file, each of which must be whole."""
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_the_record(tmp_path: Path, transport: TransportName) -> None:
    """The fields of `TurnRecord`, in one line of JSON, appended to what the file has."""
    told: list[TurnRecord] = []
    path = tmp_path / "turns.jsonl"
    for _ in range(2):
        with LocalServer() as server, JsonLines(path) as lines:
            with provider_for(server, transport=transport, hooks=[lines, told.append]) as provider:
                provider.complete("Hi")
    assert rows(path) == [json.loads(json.dumps(record.to_dict())) for record in told] and len(told) == 2


def test_sixteen_threads_do_not_mix_lines(tmp_path: Path) -> None:
    """800 turns are 800 whole lines."""
    path = tmp_path / "turns.jsonl"
    with LocalServer() as server, JsonLines(path) as lines, provider_for(server, hooks=lines, timeouts=30) as provider:

        def work(number: int) -> None:
            for turn in range(50):
                provider.complete(f"{number} {turn}", session=str(number))

        with ThreadPoolExecutor(16) as crowd:
            list(crowd.map(work, range(16)))
        assert provider.stats()["hook_failures"] == 0
    found = rows(path)
    assert len(found) == 800 == len({row["response_id"] for row in found})
    assert {row["finish_reason"] for row in found} == {"stop"}


def _calls(provider: Provider, number: int) -> int:
    for turn in range(10):
        provider.complete(f"{number} {turn}")
    return os.getpid()


def test_processes_share_a_file(tmp_path: Path) -> None:
    """A hook of a path pickles with its provider: spawned processes append to the same file."""
    path = tmp_path / "turns.jsonl"
    spawn = multiprocessing.get_context("spawn")
    with LocalServer() as server, JsonLines(path) as lines, provider_for(server, hooks=lines, transport="http_sse") as provider:
        with ProcessPoolExecutor(3, mp_context=spawn) as crowd:
            list(crowd.map(partial(_calls, provider), range(3)))
    assert len(rows(path)) == 30


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_writes_on(tmp_path: Path) -> None:
    """Also one that was forked while a line was being written: its lock is its own."""
    path = tmp_path / "turns.jsonl"
    with LocalServer() as server, JsonLines(path) as lines, provider_for(server, hooks=lines) as provider:
        provider.complete("parent")
        taken, done = threading.Event(), threading.Event()

        def hold() -> None:
            with lines._lock:
                taken.set()
                done.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait(20)
        assert in_child(lambda: provider.complete("child").text) == "Heard: child (context: 1)"
        done.set()
        holder.join()
        provider.complete("parent again")
    assert len(rows(path)) == 3


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    """One that a process could not finish is ended before the next one begins; a whole one is left as it is."""
    path = tmp_path / "turns.jsonl"
    path.write_bytes(b'{"started_at": 17')
    for _ in range(2):
        with JsonLines(path) as lines, Provider(transport=FakeTransport([WHOLE]), model="m", hooks=lines) as provider:
            provider.complete("Hi")
    torn, *whole = path.read_bytes().splitlines()
    assert torn == b'{"started_at": 17' and [json.loads(line)["finish_reason"] for line in whole] == ["stop", "stop"]


@pytest.mark.parametrize("room", [1, 40])
def test_a_disk_that_was_full_spoils_one_line(tmp_path: Path, room: int) -> None:
    """The one that it had no room for: when there is room again, the next begins on a line of its own."""
    path, record = tmp_path / "turns.jsonl", TurnRecord(started_at=1.0)

    def child() -> list[int]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with JsonLines(path) as lines:
            lines(record)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, most))
            failed = []
            for _ in range(2):
                with pytest.raises(OSError) as error:
                    lines(record)
                failed.append(error.value.errno or 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            lines(record)
            lines(record)
        return failed

    assert in_child(child) == [errno.EFBIG] * 2
    first, torn, *whole = path.read_bytes().splitlines()
    assert len(torn) == room and len(whole) == 2 and {first, *whole} == {first}


class Shown:
    """A file of somebody's own that knows neither a mode nor an encoding."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


@pytest.mark.parametrize("kind", ["own", "codecs"])
def test_what_is_not_known_to_be_binary_gets_text(tmp_path: Path, kind: str) -> None:
    """Also where a text file stands on a binary one, and shows its mode."""
    path, own = tmp_path / "turns.jsonl", Shown()
    with codecs.StreamReaderWriter(path.open("wb"), codecs.getreader("utf-8"), codecs.getwriter("utf-8")) as writer:
        JsonLines(own if kind == "own" else writer)(TurnRecord(started_at=5.0))
    assert json.loads(own.text if kind == "own" else path.read_text())["started_at"] == 5.0


@pytest.mark.parametrize("kind", ["text", "bytes", "temporary", "StringIO", "BytesIO"])
def test_a_file_object_gets_the_lines(tmp_path: Path, kind: str) -> None:
    """Text or bytes, as it wants; each line is flushed, and the file stays open: it is the caller's."""
    path = tmp_path / "turns.jsonl"
    files: dict[str, Any] = {
        "text": lambda: path.open("a", encoding="utf-8"), "bytes": lambda: path.open("ab"),
        "temporary": tempfile.NamedTemporaryFile, "StringIO": io.StringIO, "BytesIO": io.BytesIO,
    }  # fmt: skip
    with files[kind]() as file:
        with JsonLines(file) as lines, Provider(transport=FakeTransport([WHOLE]), model="m", hooks=lines) as provider:
            provider.complete("Hi")
            shown = file.getvalue() if isinstance(file, io.StringIO | io.BytesIO) else Path(file.name).read_bytes()
            assert json.loads(shown)["finish_reason"] == "stop" and shown[-1:] in ("\n", b"\n")
        assert not file.closed
        with pytest.raises(TypeError, match="give it a path"):
            pickle.dumps(lines)


def test_after_its_end_it_fails_without_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closed twice, it is closed; a turn that comes later is a failure of the hook's, which is counted and said."""
    path = tmp_path / "turns.jsonl"
    lines = JsonLines(path)
    assert repr(lines) == f"<JsonLines {path}>"
    with Provider(transport=FakeTransport([WHOLE]), model="m", hooks=lines) as provider:
        provider.complete("Hi")
        lines.close()
        lines.close()
        assert provider.complete("Hi").text == "Hello"
        assert provider.stats()["hook_failures"] == 1
    assert len(rows(path)) == 1 and "JsonLines failed with ValueError" in caplog.text and repr(lines) == "<JsonLines closed>"


def test_a_full_disk_harms_no_turn(caplog: pytest.LogCaptureFixture) -> None:
    """What the system says of a write is the hook's failure."""
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    with JsonLines("/dev/full") as lines, Provider(transport=FakeTransport([WHOLE]), model="m", hooks=lines) as provider:
        assert provider.complete("Hi").text == "Hello"
        assert provider.stats()["hook_failures"] == 1
    assert "JsonLines failed with OSError" in caplog.text


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """At once: a wrong kind by `InvalidRequest`, a path that cannot be opened by what the system says."""
    for wrong in (None, 5, object()):
        with pytest.raises(InvalidRequest, match="path_or_file must be a path or a file"):
            JsonLines(wrong)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        JsonLines(tmp_path / "nowhere" / "turns.jsonl")
