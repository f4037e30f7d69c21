"""Every example of the docstrings and of the pages runs, and every public name has one."""

from __future__ import annotations

import doctest
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import pixir_sync
from pixir_sync import CancelToken, Provider, ResponseStream
from pixir_sync.local import LocalServer
from tests.support.doctests import DOCS, all_examples, names_in, of_docstrings, of_pages

EXAMPLES = all_examples()
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
# What a generator has and nobody calls, and what the rooms of the house do with a `CancelToken`.
INNER = {"send", "throw", "register", "unregister", "wait", "waking"}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no proxy, no settings of the machine's, and no network but loopback."""
    for name in [n for n in os.environ if n.startswith(("OPENAI_", "PIXIR_")) or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    resolve = socket.getaddrinfo

    def only_here(host: Any, *args: Any, **options: Any) -> Any:
        assert host in ("127.0.0.1", "localhost"), f"an example reached for {host}"
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("test", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_the_examples_give_what_they_show(test: doctest.DocTest) -> None:
    """To the letter; and what a page starts it ends: no thread is left."""
    before, said = set(threading.enumerate()), list[str]()
    runner = doctest.DocTestRunner(verbose=False)
    try:
        runner.run(test, out=said.append, clear_globs=False)
    finally:
        left = [value for value in test.globs.values() if isinstance(value, Provider | LocalServer)]
        for value in left:
            value.close()
        test.globs.clear()
    assert said == []
    until = time.monotonic() + 5
    while set(threading.enumerate()) - before:  # the keepalive thread ends as soon as it sees that its provider was closed
        assert time.monotonic() < until, "a thread is left"
        time.sleep(0.005)


def test_both_kinds_are_found() -> None:
    """The check above has what to check."""
    assert len(list(of_docstrings())) > 15 and len(list(of_pages())) > 2


def test_every_public_name_has_an_example() -> None:
    """One that runs, and that uses the name rather than importing it."""
    assert set(pixir_sync.__all__) - names_in(EXAMPLES).names == set()


@pytest.mark.parametrize("kind", [Provider, ResponseStream, CancelToken])
def test_every_method_has_an_example(kind: type) -> None:
    """What a program calls most it can copy."""
    assert {name for name in vars(kind) if not name.startswith("_")} - INNER - names_in(EXAMPLES).attributes == set()


def test_every_public_name_is_on_a_reference_page() -> None:
    """By an autodoc directive, or in a table."""
    named = set(re.findall(r":: pixir_sync\.(\w+)$", REFERENCE, re.MULTILINE)) | set(re.findall(r"`(\w+)`", REFERENCE))
    assert set(pixir_sync.__all__) - named == set()


def test_a_wrong_example_is_seen() -> None:
    """The runner's word goes into the list that must be empty."""
    parser, said = doctest.DocTestParser(), list[str]()
    test = parser.get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert "Expected" in "".join(said)
