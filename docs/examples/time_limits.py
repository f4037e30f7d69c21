"""A silent server and a limit of its own for each kind of wait."""

from __future__ import annotations

from typing import Any

from pixir_sync import FirstEventTimeout, Provider, Timeouts
from pixir_sync.local import LocalServer, Pause


def main() -> None:
    pause = Pause()

    def silent(body: dict[str, Any]) -> list[Pause]:
        return [pause]

    with LocalServer(scenario=silent) as server:
        provider = Provider(
            model="local-model",
            base_url=server.base_url,
            api_key=server.api_key,
            timeouts=Timeouts(connect=5, first_event=0.2, idle=60, total=120),
        )
        with provider:
            try:
                provider.complete("Hello?")
            except FirstEventTimeout as error:
                print(f"{error.kind} in phase {error.phase}; a TimeoutError: {isinstance(error, TimeoutError)}")
        pause.event.set()


if __name__ == "__main__":
    main()
