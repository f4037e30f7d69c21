"""A chunk of one message has a way of its own through the parser: it is taken only where a message can begin."""

from __future__ import annotations

import pytest

from pixir_sync.protocol.frames import FrameParser
from tests.protocol.test_frames import server

TEXT = 1


@pytest.mark.parametrize("before", [
    b"\x81\x7e\x03\xe8", b"\x81\x7e\x03\xe8begun", b"\x81", b"\x81\x7e\x01", b"\x89\x05", b"\x89\x05two", b"\x01\x03abc",
])  # fmt: skip
def test_what_looks_like_a_message_of_its_own_within_another_frame(before: bytes) -> None:
    """A chunk that would be one whole message, were it not the middle of what began before it: it is read as that."""
    alike = server(TEXT, b"m" * 300)
    whole, cut = FrameParser(), FrameParser()
    read_whole, read_cut = whole.feed(before + alike), cut.feed(before) + cut.feed(alike)
    assert read_cut == read_whole == []
    assert (cut.pings, cut.held, str(cut.error)) == (whole.pings, whole.held, str(whole.error))
