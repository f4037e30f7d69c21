"""A credential of one's own: read from wherever it lives, refreshed once when the server refuses it."""

from __future__ import annotations

from collections.abc import Mapping

from pixir_sync import Provider
from pixir_sync.local import LocalServer


class Vault:
    """Keys that rotate; `identity` stays, so that a connection outlives a key."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys

    @property
    def identity(self) -> str:
        return "vault:team-a"

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._keys[0]}"}

    def refresh(self) -> None:
        print("refreshed")
        self._keys.pop(0)


def main() -> None:
    with LocalServer(api_key="new-key") as server:
        vault = Vault(["old-key", "new-key"])
        with Provider(model="local-model", base_url=server.base_url, credential=vault) as provider:
            print(provider.complete("Hello"))


if __name__ == "__main__":
    main()
