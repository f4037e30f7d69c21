"""Two turns of a conversation; the history is the program's own list."""

from __future__ import annotations

from typing import Any

from pixir_sync import Provider, user
from pixir_sync.local import LocalServer


def main() -> None:
    with (
        LocalServer() as server,
        Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider,
    ):
        history: list[dict[str, Any]] = []
        for question in ("Good morning", "What did I say?"):
            history.append(user(question))
            with provider.stream(history, session="morning") as stream:
                for event in stream:
                    print(event.text, end="", flush=True)
            print()
            history += stream.result().output_items


if __name__ == "__main__":
    main()
