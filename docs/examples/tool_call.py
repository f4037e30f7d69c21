"""A tool call: the model asks, the program runs the function, the model reads what came out."""

from __future__ import annotations

import json
from typing import Any

from pixir_sync import Provider, tool_output, user
from pixir_sync.local import LocalServer


def get_weather(city: str) -> dict[str, Any]:
    """The weather of a city."""
    return {"city": city, "sky": "clear"}


def main() -> None:
    with (
        LocalServer() as server,
        Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider,
    ):
        # The local model calls a tool whose name is in the text.
        history: list[dict[str, Any]] = [user("Call get_weather for me, please")]
        result = provider.complete(history, tools=[get_weather])
        while result.finish_reason == "tool_calls":
            history += result.output_items
            for call in result.function_calls:
                print("called:", call.name)
                history.append(tool_output(call.call_id, json.dumps(get_weather(**(call.args or {})))))
            result = provider.complete(history, tools=[get_weather])
        print(result)


if __name__ == "__main__":
    main()
