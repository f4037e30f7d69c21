"""A second thread cancels a stream that has fallen silent; what was read so far is kept."""

from __future__ import annotations

import threading
from typing import Any

from pixir_sync import Cancelled, Provider
from pixir_sync.local import LocalServer, Pause


def main() -> None:
    pause = Pause()
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": "Half "}

    def stalls(body: dict[str, Any]) -> list[dict[str, Any] | Pause]:
        return [{"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}, delta, pause]

    with LocalServer(scenario=stalls) as server:
        with Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider:
            stream = provider.stream("Tell me everything")
            begun = threading.Event()

            def watch() -> None:
                if begun.wait(10):
                    stream.cancel()

            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                for event in stream:
                    print(event.text, end="", flush=True)
                    if event.text:
                        begun.set()
            except Cancelled as error:
                print(f"| {error.kind}, kept: {error.partial.text if error.partial else ''!r}")
            watcher.join()
        pause.event.set()


if __name__ == "__main__":
    main()
