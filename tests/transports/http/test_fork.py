"""A fork in mid-stream: what the child does with its copy is nothing to the parent."""

from __future__ import annotations

import os
import threading

import pytest

from pixir_sync import Provider
from tests.support.events import text_response
from tests.support.peer import Conn, ScriptedPeer

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("how", ["close", "drop", "provider"])
def test_a_child_that_ends_its_copy_does_not_end_the_parents_stream(how: str) -> None:
    """The child closes its descriptors and never shuts the shared connection down."""
    forked = threading.Event()
    events = text_response("Hel", "lo")

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        conn.sse(events[0])
        conn.hold(forked)
        for event in events[1:]:
            conn.sse(event)
        conn.finish()

    with ScriptedPeer(script) as peer:
        provider = Provider(model="m", base_url=peer.base_url, api_key="k", transport="http_sse")
        stream = provider.stream("Hi")
        next(stream)
        child = os.fork()
        if child == 0:
            if how == "close":
                stream.close()
            elif how == "drop":
                del stream
            else:
                provider.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        forked.set()
        assert stream.result().text == "Hello"
