"""An answer that is data: a data class says what shape it must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pixir_sync import Provider
from pixir_sync.local import LocalServer


@dataclass
class City:
    name: str
    people: int


def main() -> None:
    answer = '{"name": "Graz", "people": 300000}'
    content = [{"type": "output_text", "text": answer}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": content}
    response = {"id": "resp_1", "status": "completed", "model": "local-model", "output": [message]}

    def fixed(body: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"type": "response.completed", "response": response}]

    with (
        LocalServer(scenario=fixed) as server,
        Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider,
    ):
        city = provider.complete("A city, please", output_schema=City).parsed
        print(city)


if __name__ == "__main__":
    main()
