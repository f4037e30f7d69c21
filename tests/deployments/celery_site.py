"""The tasks of the documentation as the tests deploy them, in a worker that asks itself: its broker is its own memory.

Rules kept here:

* The Provider is used as soon as the worker's parent has loaded this module, before any child is there.
* What came of the tasks goes to a file that is there as a whole or not at all, as each result does.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from celery.backends.filesystem import FilesystemBackend
from celery.signals import worker_ready

from docs.examples import celery_tasks
from pixir_sync import Provider
from tests.deployments.servers import DEADLINE, WARMED

DIRECTORY = Path(os.environ["SITE_DIRECTORY"])
TOLD = DIRECTORY / "told"

app = celery_tasks.app
provider = celery_tasks.provider = Provider(transport=os.environ["SITE_TRANSPORT"])
provider.complete(WARMED, session="warm")

app.conf.update(
    broker_url="memory://",
    broker_transport_options={"polling_interval": 0.02},
    result_backend=f"{__name__}:Results+file://{DIRECTORY}",
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
)


class Results(FilesystemBackend):
    """Celery's results in files, of which nobody reads half."""

    def set(self, key: Any, value: Any) -> None:
        write(DIRECTORY / os.fsdecode(key), value if isinstance(value, bytes) else value.encode())


def write(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.rename(path)


@app.task
def told(text: str, session: str | None) -> tuple[str, int, int]:
    """What was said, in which process, and how many connections that process has opened."""
    said = provider.complete(text, session=session).text
    return said, os.getpid(), provider.stats()["connections"]["opened"]


def outcome(sent: Any) -> Any:
    """What a task gave, or the kind of what it raised."""
    found = sent.get(timeout=DEADLINE, interval=0.02, propagate=False, disable_sync_subtasks=False)
    return type(found).__name__ if isinstance(found, BaseException) else found


def ask() -> None:
    """Run the tasks that the environment names, those of a batch together; write down what came of them."""
    outcomes: list[list[Any]] = []
    for batch in json.loads(os.environ["SITE_TASKS"]):
        sent = [app.signature(name, args=arguments, app=app).apply_async(**options) for name, arguments, options in batch]
        outcomes.append([outcome(each) for each in sent])
    write(TOLD, json.dumps(outcomes).encode())


@worker_ready.connect
def begin(**_: Any) -> None:
    threading.Thread(target=ask, daemon=True).start()
