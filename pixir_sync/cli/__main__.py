"""``python -m pixir_sync.cli``: the same as ``pixir-sync``."""

from __future__ import annotations

import sys

from pixir_sync.cli import main

if __name__ == "__main__":
    sys.exit(main())
