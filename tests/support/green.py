"""A program under gevent: ``python -m tests.support.green BASE_URL MUTE_URL TRANSPORT [CA_FILE]``; prints what it found as JSON.

At the second URL every stream stands still after its first event, and over a WebSocket no ping is answered.

Everything is patched before anything else is imported, as gevent's documentation asks.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from pixir_sync import (  # noqa: E402
    Cancelled,
    CancelToken,
    Keepalive,
    Network,
    PixirError,
    PoolOptions,
    Provider,
    user,
)  # fmt: skip

STREAMS = 50


def main(base_url: str, mute_url: str, transport: str, ca_file: str | None = None) -> dict[str, Any]:
    """All of it, in one loop and one thread of the system."""
    found: dict[str, Any] = {
        "patched": all(monkey.is_module_patched(name) for name in ("threading", "socket", "ssl", "select", "queue")),
    }
    with Provider(
        model="m", base_url=base_url, api_key="local-key", transport=transport, timeouts=20,
        network=Network(trust_env=False, ca_bundle=ca_file), pool=PoolOptions(max_size=8),
    ) as provider:  # fmt: skip
        began = time.monotonic()
        jobs = [gevent.spawn(conversation, provider, number) for number in range(STREAMS)]
        found["said"] = [job.get(timeout=50) for job in jobs]
        found["seconds"] = time.monotonic() - began
        found["cancelled_after"] = cancel(provider)
        found["kept"] = keep(provider)
        found["threads"] = [thread.name for thread in threading.enumerate()]
        found["stats"] = provider.stats()
    options = {"transport": transport, "api_key": "local-key", "network": Network(trust_env=False, ca_bundle=ca_file)}
    found["waits"] = wait(Provider(model="m", base_url=mute_url, pool=PoolOptions(max_size=1), **options))
    found["mute"] = mute(Provider(model="m", base_url=mute_url, keepalive=Keepalive(0.3, 0.3), timeouts=2, **options))
    return found


def conversation(provider: Provider, number: int) -> list[str]:
    """Two turns of one session: in pairs they share one, so that they also wait for each other."""
    said = []
    for turn in range(2):
        with provider.stream(f"{number}.{turn}", session=f"s{number // 2}") as stream:
            said.append("".join(event.text for event in stream))
    return said


def cancel(provider: Provider) -> float:
    """A stream that stands still is cancelled from another greenlet; how long its consumer then took to notice."""
    stream = provider.stream("stall", session="stall")
    next(stream)
    at: list[float] = []

    def act() -> None:
        at.append(time.monotonic())
        stream.cancel()

    gevent.spawn_later(0.3, act)
    try:
        for _ in stream:
            pass
    except Cancelled:
        return time.monotonic() - at[0]
    raise AssertionError("it was not cancelled")


def keep(provider: Provider) -> list[Any]:
    """A connection is idle while the server pings, and a consumer is away in mid-stream: both live on."""
    first = provider.complete("before", session="kept")
    gevent.sleep(1.5)
    second = provider.complete([user("before"), *first.output_items, user("after")], session="kept")
    with provider.stream("slow", session="kept") as stream:
        next(stream)
        gevent.sleep(1.5)
        text = "".join(event.text for event in stream)
    return [second.text, second.provider_metadata["connection_reused"], text]


def wait(provider: Provider) -> list[str]:
    """One stream has the only place: of those who wait one is late, one is cancelled, one is there when all is closed."""
    first = provider.stream("first", session="first")
    next(first)
    token = CancelToken()
    jobs = [
        gevent.spawn(end_of, provider.stream("late", session="late", timeouts={"pool": 0.2, "idle": 0.2})),
        gevent.spawn(end_of, provider.stream("cancelled", session="cancelled", cancel=token)),
        gevent.spawn(end_of, provider.stream("closed", session="closed")),
        gevent.spawn(end_of, first),
    ]
    gevent.spawn_later(0.4, token.cancel)
    gevent.spawn_later(0.8, provider.close)
    return [job.get(timeout=10) for job in jobs]


def mute(provider: Provider) -> list[Any]:
    """The peer falls silent: how the stream ends, and after how many seconds."""
    stream = provider.stream("mute", session="mute")
    next(stream)
    began = time.monotonic()
    with provider:
        return [end_of(stream), time.monotonic() - began]


def end_of(stream: Any) -> str:
    """Run it to its end; the error's kind."""
    try:
        for _ in stream:
            pass
    except PixirError as error:
        return error.kind
    return "result"


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
