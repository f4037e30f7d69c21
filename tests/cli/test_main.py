"""The entry point: what it needs, what it does without it, and its help."""

from __future__ import annotations

import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pixir_sync.cli import main
from tests.cli.conftest import Command
from tests.cli.support import COMMAND, Done, ended, start


def test_the_installed_command_is_this_one() -> None:
    """``pixir-sync`` is `pixir_sync.cli.main`."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    name, _, place = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = place.partition(":")
    assert (name, getattr(importlib.import_module(module), function)) == ("pixir-sync", main)


def without(package: str, env: dict[str, str], folder: Path, raised: str = "ModuleNotFoundError('No', name=__name__)") -> Done:
    """The demo, run where this package cannot be imported."""
    (folder / f"{package}.py").write_text(f"raise {raised}\n")
    return ended(start({**env, "PYTHONPATH": os.pathsep.join([str(folder), env["PYTHONPATH"]])}, "demo"))


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_which_one(keyless: dict[str, str], tmp_path: Path, missing: str) -> None:
    """It imports without click and rich, and names the extra in one line."""
    done = without(missing, keyless, tmp_path)
    assert done.failed_with(f"the command line needs {missing}: pip install 'pixir-sync[cli]'")


@pytest.mark.parametrize("imported", ["click", "rich"])
def test_an_interrupt_during_the_imports_is_no_traceback(keyless: dict[str, str], tmp_path: Path, imported: str) -> None:
    """They are most of what a short command does."""
    assert without(imported, keyless, tmp_path, "KeyboardInterrupt") == Done(130, "", "")


def test_an_interrupt_before_the_command_is_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """While this package itself is imported, and after the command."""

    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pixir_sync.cli.app.run", interrupted)
    assert main([]) == 130


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_stream_that_is_closed_takes_everything(env: dict[str, str], closed: str) -> None:
    """As cron and some supervisors start a program: it works, and what it says goes nowhere."""
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, "doctor", "--local", "--json"]
    done = subprocess.run(shell, env=env, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "") and bool(done.stdout) == (closed in ("2>&-", "<&-"))


def test_without_aiohttp_the_embedded_server_says_so(keyless: dict[str, str], tmp_path: Path) -> None:
    """One line that names the extra, no traceback."""
    done = without("aiohttp", keyless, tmp_path)
    assert done.failed_with("the local server needs aiohttp: pip install 'pixir-sync[local]'")


def test_importing_it_imports_no_terminal_library(keyless: dict[str, str]) -> None:
    """The package with the entry point stands alone."""
    code = "import sys, pixir_sync.cli; print([name for name in ('click', 'rich', 'aiohttp', 'requests') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=keyless, capture_output=True, text=True, timeout=20)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["ask", "chat", "demo", "doctor", "models", "serve"])
def test_every_command_has_help_and_the_common_options(here: Command, name: str) -> None:
    """--help tells of each, and exits with 0."""
    done = here(name, "--help")
    assert done.status == 0
    assert all(option in done.out for option in ("--base-url", "--model", "--transport", "--json", "--local"))


def test_the_help_says_why_there_is_no_option_for_a_key(here: Command) -> None:
    """Keys on a command line can be read by others."""
    assert "never from an option" in " ".join(here("--help").out.split())


def test_the_version_is_told(here: Command) -> None:
    """``--version``."""
    assert here("--version").out.startswith("pixir-sync, version ")


def test_a_defect_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is raised, the user sees no traceback."""

    def broken(self: object, *args: object, **options: object) -> None:
        raise ZeroDivisionError("by zero\nindeed")

    monkeypatch.setattr("pixir_sync.provider.Provider.__init__", broken)
    assert main(["models", "--local"]) == 1
    assert capsys.readouterr().err == "pixir-sync: unexpected ZeroDivisionError: by zero indeed\n"
