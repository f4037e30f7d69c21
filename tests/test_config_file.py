"""The configuration file: where it is, what it may say, and that every mistake names its line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pixir_sync import InvalidRequest, Keepalive, Network, PoolOptions, Provider, ProviderConfig, RetryPolicy, Timeouts
from pixir_sync.config_file import SECTIONS, config_path, read
from pixir_sync.sources import resolve
from tests.test_public_names import probe

EVERYTHING = """\
# What the programs of this machine use.
[pixir]
model = llama3.3
transport: sse
endpoint = vllm
base_url = https://gpu.test/v1?tier=a:b
organization = org-1
project = proj-1
continuation = exact
store = yes
requests_per_minute = 90

[pixir.timeouts]
connect = 5
first_event = 30.5
TOTAL = none
[pixir.retry]
max_retries = 0
replay = never
[ pixir.pool ]
max_size = 4
max_lifetime = none
lanes = off
[pixir.keepalive]
; twice a minute
interval = 30
[pixir.network]
proxy = http://user:pass@proxy.test:3128
client_cert = me.pem
trust_env = false
ca_bundle =
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file, still empty."""
    monkeypatch.setenv("PIXIR_CONFIG", str(tmp_path / "config.ini"))
    (tmp_path / "config.ini").touch()
    return tmp_path / "config.ini"


def test_every_setting_is_read(file: Path) -> None:
    """Comments, blank lines, either sign, any case of a name; an empty value says nothing; none is no limit."""
    for text in (EVERYTHING, EVERYTHING.replace("\n", "\r\n"), "\ufeff" + EVERYTHING):
        file.write_bytes(text.encode())
        config = resolve({})
        assert (config.model, config.transport, config.endpoint) == ("llama3.3", "sse", "vllm")
        assert (config.base_url, config.continuation, config.store) == ("https://gpu.test/v1?tier=a:b", "exact", True)
        assert config.requests_per_minute == 90 and config.timeouts == Timeouts(connect=5, first_event=30.5, total=None)
        assert config.retry == RetryPolicy(max_retries=0, replay="never") and config.keepalive == Keepalive(interval=30)
        assert config.pool == PoolOptions(max_size=4, max_lifetime=None, lanes=False)
        proxy = "http://user:pass@proxy.test:3128"
        assert config.network == Network(proxy=proxy, client_cert="me.pem", trust_env=False)
        assert read().options["organization"] == "org-1"


def test_the_sections_hold_every_scalar_setting() -> None:
    """A new field of a setting can be given in the file from its first day; headers, hooks and credentials cannot."""
    known = {"timeouts": Timeouts, "retry": RetryPolicy, "pool": PoolOptions, "keepalive": Keepalive, "network": Network}
    for name, kind in known.items():
        assert SECTIONS[f"pixir.{name}"].keys() == {f.name for f in fields(kind)} - {"headers"}
    left_out = {"api_key", "credential", "websocket_url", "originator", "hooks", *known}
    assert SECTIONS["pixir"].keys() == {f.name for f in fields(ProviderConfig)} - left_out
    assert SECTIONS.keys() == {"pixir", *(f"pixir.{name}" for name in known)}


WRONG: list[tuple[str, int, str]] = [
    ("model = m", 1, "this stands in no section; the first line is [pixir]"),
    ("\n# x\n[pixir]\nmodel", 4, "this is no setting; one looks like: model = name"),
    ("[pixir]\n= m", 2, "this is no setting"),
    ("[pixir\nmodel = m", 1, "this is no section; one looks like: [pixir]"),
    ("[]", 1, "this is no section"),
    ("[pixir]\nmodle = m", 2, "unknown key of [pixir] 'modle'; did you mean 'model'?"),
    ("[pixir]\ntimeouts = 5", 2, "unknown key of [pixir] 'timeouts'"),
    ("[DEFAULT]\nmodel = m", 1, "unknown section 'DEFAULT'"),
    ("[pixir.timeout]", 1, "unknown section 'pixir.timeout'; did you mean 'pixir.timeouts'?"),
    ("[pixir.timeouts]\nconect = 5", 2, "unknown key of [pixir.timeouts] 'conect'; did you mean 'connect'?"),
    ("[pixir.network]\nheaders = X: y", 2, "unknown key of [pixir.network] 'headers'"),
    ("[pixir]\nmodel = a\n\nmodel = b", 4, "model was given before"),
    ("[pixir]\n[pixir.pool]\n[pixir]", 3, "pixir was given before"),
    ("[pixir]\ntransport = websockets", 2, "transport must be one of auto, websocket, http_sse, sse; did you mean 'websocket'?"),
    ("[pixir]\nendpoint = olama", 2, "endpoint must be one of"),
    ("[pixir]\nbase_url = http://far.test/v1", 2, "base_url: plain http goes to this machine only"),
    ("[pixir]\ncontinuation = on", 2, "continuation must be one of auto, exact, off"),
    ("[pixir]\nstore = maybe", 2, "store must be true or false"),
    ("[pixir]\nendpoint = openrouter\nstore = true", 3, "store: OpenRouter keeps no responses"),
    ("[pixir]\nendpoint = ollama\ntransport = websocket", 3, "transport: the endpoint ollama offers no WebSocket"),
    ("[pixir]\nrequests_per_minute = 1.5", 2, "requests_per_minute must be a whole number, or none"),
    ("[pixir]\nrequests_per_minute = 0", 2, "requests_per_minute must be a whole number above 0"),
    ("[pixir]\norganization = \x01", 2, "organization must not hold control characters"),
    ("[pixir.timeouts]\nidle = soon", 2, "idle must be a number, or none"),
    ("[pixir.timeouts]\nidle = -1", 2, "timeouts.idle must be a number above 0"),
    ("[pixir.timeouts]\nidle = nan", 2, "timeouts.idle must be a number above 0"),
    ("[pixir.retry]\nmax_retries = none", 2, "max_retries must be a whole number"),
    ("[pixir.retry]\nreplay = always", 2, "retry.replay must be one of"),
    ("[pixir.pool]\nlanes = 2", 2, "lanes must be true or false"),
    ("[pixir.network]\nproxy = socks5://p:1", 2, "network.proxy must be an http:// or https:// URL"),
]


@pytest.mark.parametrize(("text", "line", "says"), WRONG, ids=[repr(row[0])[:50] for row in WRONG])
def test_a_wrong_file_is_refused_by_its_line(file: Path, text: str, line: int, says: str) -> None:
    """When the provider is made, whatever the program gives as arguments; the nearest name is said, a value never."""
    file.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        Provider(model="m")
    assert caught.value.message.startswith(f"{file}, line {line}: {says}")


@pytest.mark.row("A26")
@pytest.mark.parametrize("name", ["api_key", "API_KEY", "openai_api_key", "token", "credential", "key", "password"])
def test_no_key_belongs_in_the_file(file: Path, name: str) -> None:
    """The error says where it does, and quotes nothing."""
    file.write_text(f"[pixir]\nmodel = m\n{name} = sk-1234567890\n")
    with pytest.raises(InvalidRequest, match="line 3: a key does not belong in this file; use the environment") as caught:
        Provider()
    assert "sk-1234567890" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no text have a line, too; what may not be opened has a reason."""
    file.write_bytes(b"[pixir]\nmodel = \xff\xfe\n")
    with pytest.raises(InvalidRequest, match=r"config\.ini, line 2: this is not UTF-8"):
        Provider()

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InvalidRequest, match=r"config\.ini cannot be read: PermissionError"):
        Provider()


def test_the_file_has_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIXIR_CONFIG, where one must be, else where the system has the settings of programs; the null device is none."""
    for missing in (tmp_path / "x", tmp_path):
        monkeypatch.setenv("PIXIR_CONFIG", str(missing))
        with pytest.raises(InvalidRequest, match=f"^PIXIR_CONFIG: there is no file {missing}$"):
            resolve({})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIXIR_CONFIG", "~/mine.ini")
    assert config_path() == str(tmp_path / "mine.ini")
    monkeypatch.setenv("PIXIR_CONFIG", os.devnull)
    assert resolve({}).model == "gpt-5.5"
    monkeypatch.delenv("PIXIR_CONFIG")
    assert resolve({}).model == "gpt-5.5"
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    own = tmp_path / ("Library/Application Support" if sys.platform == "darwin" else ".config")
    assert config_path() == str(own / "pixir" / "config.ini")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg" / "pixir").mkdir(parents=True)
    (tmp_path / "xdg" / "pixir" / "config.ini").write_text("[pixir]\nmodel = found\n")
    assert resolve({}).model == "found"


def test_the_library_that_finds_it_is_imported_only_for_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither where PIXIR_CONFIG says where the file is, nor where no folder of ours is; it reads no file by a library."""
    monkeypatch.setenv("PIXIR_CONFIG", os.devnull)
    found = probe("import pixir_sync; pixir_sync.Provider(model='m')")["modules"]
    assert not {"platformdirs", "configparser"} & {*found}
    monkeypatch.delenv("PIXIR_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    found = probe("import pixir_sync; pixir_sync.Provider(model='m')")["modules"]
    assert not {"platformdirs", "configparser"} & {*found}
    folder = tmp_path / ("Library/Application Support" if sys.platform == "darwin" else ".config") / "pixir"
    folder.mkdir(parents=True)
    found = probe("import pixir_sync; pixir_sync.Provider(model='m')")["modules"]
    assert "platformdirs" in found and "configparser" not in found


def test_a_home_that_is_no_path_is_the_librarys_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It takes the home of the user's account then, and so does this."""
    monkeypatch.delenv("PIXIR_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "home")
    assert "platformdirs" in probe("import pixir_sync; pixir_sync.Provider(model='m')")["modules"]


def test_a_command_line_tells_the_mistake(file: Path) -> None:
    """In one line, with the file's name and the line in it."""
    file.write_text("[pixir]\nmodle = m\n")
    command = [sys.executable, "-m", "pixir_sync.cli", "ask", "Hi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        f"pixir-sync: invalid_args: {file}, line 2: unknown key of [pixir] 'modle'; did you mean 'model'?"
    ]
