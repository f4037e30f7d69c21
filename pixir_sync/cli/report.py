"""What a command says beside its answer: failures, in one line on stderr each.

Rules kept here:

* A message may quote a server: what could move the cursor or ring the bell does not reach the terminal.
"""

from __future__ import annotations

import sys

__all__ = ["CommandError", "complain", "one_line", "printable"]

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
_KEPT = {code: None for code in _CONTROLS if chr(code) not in "\n\t"}


class CommandError(Exception):
    """A command cannot do what was asked; the message is the line that the user sees, the exit status is 1."""


def printable(text: str) -> str:
    """The text without control characters but newline and tab."""
    return text.translate(_KEPT)


def one_line(text: str) -> str:
    """The text in one line, without control characters."""
    return " ".join(printable(text).split())


def complain(message: str) -> None:
    """Say what is wrong, in one line on stderr."""
    print(f"pixir-sync: {one_line(message)}", file=sys.stderr, flush=True)
