"""The ``pixir-sync`` command: its parts, and the one place where a failure becomes a line and an exit status.

Rules kept here:

* Every failure is one line on stderr, never a traceback; only a wrong call is answered as click does, with the usage.
* A reader that goes away (``| head``) ends the command without a word.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from pixir_sync.cli.ask import ask
from pixir_sync.cli.chat import chat
from pixir_sync.cli.demo import demo
from pixir_sync.cli.doctor import doctor
from pixir_sync.cli.models import models
from pixir_sync.cli.options import Settings, common
from pixir_sync.cli.report import CommandError, complain
from pixir_sync.cli.serve import serve
from pixir_sync.cli.turns import report
from pixir_sync.protocol.errors import PixirError
from pixir_sync.version import __version__

__all__ = ["run"]

FAILED, INTERRUPTED = 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pixir-sync")
@common
def cli(settings: Settings) -> None:
    """Talk to a Responses API server.

    The key is read from OPENAI_API_KEY and never from an option: others could see it in the list of processes. Without a key,
    --local runs any command on an embedded server.
    """


for _command in (ask, chat, demo, doctor, models, report, serve):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None) -> int:
    """Run a command line, and give its exit status."""
    _replace_closed()
    # What the encoding cannot say is written as an escape: an answer must not end in an error. What cannot be read is one.
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _forget_stdout()
        return FAILED
    except SystemExit as left:  # click and rich leave this way when the reader has gone
        return left.code if isinstance(left.code, int) else FAILED


def _replace_closed() -> None:
    """A stream that the caller closed (``>&-``) takes everything and says nothing. Its number is not left to a socket."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _dispatch(arguments: Sequence[str] | None) -> int:
    try:
        status = cli.main(args=arguments, prog_name="pixir-sync", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        raise
    except PixirError as error:
        complain(f"{error.kind}: {error.message}")
    except (CommandError, ImportError, OSError) as error:
        complain(str(error))
    except Exception as error:  # a defect, of ours or of a library; told like any other failure
        complain(f"unexpected {type(error).__name__}: {error}")
    return FAILED


def _forget_stdout() -> None:
    """Keep the interpreter's last flush from failing aloud."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
