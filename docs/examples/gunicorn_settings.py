"""Gunicorn's settings for a site with a Provider: ``gunicorn -c gunicorn_settings.py flask_site:app``."""

preload_app = True  # a Provider that is made, or was used, before the fork is fine; without it that is as well
worker_class = "gthread"
workers = 3  # processes: each has a pool of its own
threads = 16  # calls at once in a process; below PoolOptions.max_size
timeout = 60  # seconds without a sign of life of a worker. With "sync" workers: the longest call
graceful_timeout = 120  # seconds that open streams have to come to their end after TERM and HUP
