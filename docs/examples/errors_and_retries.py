"""A refusal that passes and one that does not: the first is retried, the second is an error that says why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pixir_sync import Provider, QuotaExceeded, RetryPolicy, TurnRecord
from pixir_sync.local import HttpError, LocalServer, Step


def show(record: TurnRecord) -> None:
    print("attempts:", record.attempts, "| sent again because:", list(record.replays))


def main() -> None:
    refusals = [HttpError(503, {"error": {"code": "server_is_overloaded", "message": "Busy."}})]

    def busy_once(body: dict[str, Any]) -> Iterable[Step] | None:
        return [refusals.pop()] if refusals else None

    with LocalServer(scenario=busy_once) as server:
        provider = Provider(
            model="local-model",
            base_url=server.base_url,
            api_key=server.api_key,
            retry=RetryPolicy(max_retries=2, initial_delay=0.01),
            hooks=show,
        )
        with provider:
            print(provider.complete("Hello"))

            refusals.append(HttpError(429, {"error": {"type": "insufficient_quota", "message": "No credit left."}}))
            try:
                provider.complete("Hello again")
            except QuotaExceeded as error:
                print(f"{error.kind}: {error} (retryable: {error.retryable})")


if __name__ == "__main__":
    main()
