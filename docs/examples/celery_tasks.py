"""Celery tasks with one Provider for the worker: ``celery -A celery_tasks worker --pool prefork --concurrency 2``."""

from __future__ import annotations

from celery import Celery

from pixir_sync import Provider

app = Celery("celery_tasks")  # the broker: CELERY_BROKER_URL, or the configuration
provider = Provider()  # made in the worker's parent; every child opens connections of its own


@app.task(soft_time_limit=150, time_limit=180)
def summarise(text: str) -> str:
    return provider.complete(text, instructions="Summarise in one line.", timeouts={"total": 120}).text
