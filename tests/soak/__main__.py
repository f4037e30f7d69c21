"""The soak: many threads, several providers over bounded pools, two servers and a raw peer that do their worst, forks in between.

``python -m tests.soak --seconds 600 --seed 7`` runs it, prints the seed first and a report in Markdown at the end, and leaves
with status 1 if anything was not as it must be. ``tox -e soak -- --seconds 600 --seed 7`` is the same in an environment of its
own.

The same seed gives the same calls on each thread, the same fates and the same noise; when the threads meet is the system's
business.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.soak.run import soak


def main() -> int:
    """The program: 1 where there was a defect."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--threads", type=int, default=64, help="a quarter of them talk to the raw peer")
    parser.add_argument("--calm", action="store_true", help="the servers make no noise for everybody")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    figures = soak(given.seconds, given.seed, threads=given.threads, calm=given.calm)
    print(figures.report(), flush=True)
    return 1 if figures.defects else 0


if __name__ == "__main__":
    sys.exit(main())
