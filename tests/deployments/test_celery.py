"""Under Celery's prefork pool: a worker whose parent had used the Provider before its children were forked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pixir_sync.local import LocalServer, faults
from tests.deployments.servers import DEADLINE, ROOT, WARMED, Process, asks, environment_of, local_server, until

TOLD = "tests.deployments.celery_site.told"
SUMMARISE = "docs.examples.celery_tasks.summarise"


def worker(server: LocalServer, way: str, where: Path, *batches: list[Any]) -> Process:
    """A worker with two children, which runs these tasks: those of a batch together."""
    environment = environment_of(server, way, SITE_DIRECTORY=str(where), SITE_TASKS=json.dumps(batches))
    command = ["-m", "celery", "-A", "tests.deployments.celery_site", "worker", "--pool", "prefork", "--concurrency", "2",
               "--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel", "INFO"]  # fmt: skip
    return Process(command, environment, ROOT, where / "log")


def outcomes(process: Process, where: Path) -> list[Any]:
    """What came of the tasks of each batch."""
    told = where / "told"
    try:
        until(told.exists, "the end of the tasks", 2 * DEADLINE)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{process.said}") from None
    found: list[Any] = json.loads(told.read_text(encoding="utf-8"))
    return found


def heard(text: str) -> str:
    return f"Heard: {text} (context: 1)"


@pytest.mark.row("B21")
@pytest.mark.parametrize("way", ["websocket", "websocket-tls", "http_sse"])
def test_every_answer_is_its_own(way: str, tmp_path: Path) -> None:
    """No initialiser is needed: both children answer, on connections of their own, and nothing comes on the parent's."""
    texts = [f"task {number}" for number in range(24)]
    tasks = [[TOLD, [text, ("warm", "s1", None)[number % 3]], {}] for number, text in enumerate(texts)]
    with local_server(way) as server, worker(server, way, tmp_path, tasks) as process:
        (told,) = outcomes(process, tmp_path)
        assert [said for said, _, _ in told] == [heard(text) for text in texts]
        pids = {pid for _, pid, _ in told}
        assert len(pids) == 2 and process.pid not in pids
        assert all(opened <= (3 if way.startswith("websocket") else 1) for _, _, opened in told)
        requests = server.requests
        parents = next(r.connection for r in requests if r.text == WARMED)
        assert [r.text for r in requests if r.connection == parents] == [WARMED]
        assert sorted(r.text for r in requests if r.text != WARMED) == sorted(texts)
        if way == "websocket":
            assert process.stop() == 0  # Celery takes some seconds for it
        process.assert_quiet()
        process.kill()


@pytest.mark.row("B21")
def test_time_limits_and_errors(tmp_path: Path) -> None:
    """The soft limit is an exception in the task, which ends its call, and the child goes on; the hard one ends both.

    The hard one comes last: a child that is killed may have had the lock of billiard's queue, which all children share here.
    """
    soft, hard = faults.Stall(after=4), faults.Stall(after=4)
    refusal = faults.Refuse(429, code="insufficient_quota", type="insufficient_quota")
    tasks = [
        [[SUMMARISE, ["soft"], {"soft_time_limit": 1}]],
        [[SUMMARISE, ["refused"], {}]],
        [[SUMMARISE, [f"after {number}"], {}] for number in range(6)],
        [[SUMMARISE, ["hard"], {"time_limit": 1}]],
    ]
    with (
        local_server("websocket") as server,
        server.fault(soft, times=1, when=asks("soft")),
        server.fault(hard, times=1, when=asks("hard")),
        server.fault(refusal, when=asks("refused")),
        worker(server, "websocket", tmp_path, *tasks) as process,
    ):
        found = outcomes(process, tmp_path)
        assert soft.pause.gone.wait(DEADLINE) and hard.pause.gone.wait(DEADLINE)
        assert "unclosed <pixir_sync" not in process.said
        process.kill()
    said = [heard(f"after {number}") for number in range(6)]
    assert found == [["SoftTimeLimitExceeded"], ["QuotaExceeded"], said, ["TimeLimitExceeded"]]
