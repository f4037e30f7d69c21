"""Type-checks every Python block of the README and the documentation: ``python -m tests.support.snippets``.

Rules kept here:

* A block that begins with an import stands for itself; one without goes on where the block before it in its file ended.
* Each program is checked under the project's own mypy settings; what is wrong is told with its file and block.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["files", "main", "programs"]

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_IMPORT = re.compile(r"\s*(?:#.*\n\s*)*(?:from|import) ")


def programs(text: str) -> list[str]:
    """The programs that a document's Python blocks make up."""
    found: list[str] = []
    for block in _BLOCK.findall(text):
        if _IMPORT.match(block) or not found:
            found.append(block)
        else:
            found[-1] += block
    return found


def files() -> list[Path]:
    """The documents that may hold Python."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> int:
    """Check them all; the number of programs with errors."""
    from mypy import api

    wrong = checked = 0
    for path in files():
        for number, code in enumerate(programs(path.read_text(encoding="utf-8")), 1):
            out, err, status = api.run(["--config-file", str(ROOT / "setup.cfg"), "-c", code])
            checked += 1
            if status:
                wrong += 1
                print(f"{path.relative_to(ROOT)}, program {number}:\n{out}{err}")
    print(f"{checked} programs in the documentation, {wrong} with errors")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
