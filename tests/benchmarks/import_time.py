"""How much longer than bare Python ``import pixir_sync`` takes: ``python -m tests.benchmarks.import_time``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

__all__ = ["measure"]


def _run(code: str, cache: str) -> float:
    # An installed package has its bytecode, whatever this process was told.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env={**environ, "PYTHONPYCACHEPREFIX": cache})
    return time.perf_counter() - begun


def measure(rounds: int = 15) -> float:
    """Seconds that the import adds: the best of interleaved runs with it, less the best of those without."""
    with tempfile.TemporaryDirectory() as cache:
        _run("import pixir_sync", cache)  # compiles, and warms the file cache
        pairs = [(_run("pass", cache), _run("import pixir_sync", cache)) for _ in range(rounds)]
    return min(imported for _, imported in pairs) - min(bare for bare, _ in pairs)


if __name__ == "__main__":
    print(f"import pixir_sync: {measure() * 1000:.0f} ms over bare Python")
