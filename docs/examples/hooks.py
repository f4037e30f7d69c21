"""What each turn was: a hook of one's own, and a line of JSON for each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pixir_sync import Provider, TurnRecord, user
from pixir_sync.hooks import JsonLines
from pixir_sync.local import LocalServer


def show(record: TurnRecord) -> None:
    how = record.error_kind or record.finish_reason
    items = f"{record.input_items_sent} of {record.input_items_total} items"
    print(f"{record.active_transport}, {record.continuation}: {how}, {items}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, LocalServer() as server:
        path = Path(directory) / "turns.jsonl"
        with JsonLines(path) as lines:
            options = {"model": server.model, "base_url": server.base_url, "api_key": server.api_key}
            with Provider(hooks=[show, lines], **options) as provider:
                history = []
                for question in ("Good morning", "What did I say?"):
                    history.append(user(question))
                    history += provider.complete(history, session="chat-42").output_items
                with provider.stream("Never mind") as stream:
                    next(stream)  # left early: told when the provider is closed
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        print("lines:", len(rows), "| tokens:", sum(row["usage"]["input_tokens"] for row in rows if row["usage"]))


if __name__ == "__main__":
    main()
