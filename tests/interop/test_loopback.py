"""The guard around all interop tests."""

from __future__ import annotations

import socket

import pytest

from tests.interop.loopback import only_loopback


def test_another_machine_is_out_of_reach() -> None:
    """Neither a connection nor a look-up of a name gets through, and both are remembered."""
    with only_loopback() as refused:
        with pytest.raises(PermissionError), socket.socket() as sock:
            sock.connect(("192.0.2.1", 80))
        with pytest.raises(PermissionError):
            socket.getaddrinfo("example.invalid", 80)
    assert len(refused) == 2


def test_this_machine_is_not() -> None:
    """Loopback works, by its name too."""
    with only_loopback() as refused, socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(("localhost", listener.getsockname()[1]), timeout=5).close()
    assert refused == []
