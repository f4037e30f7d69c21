"""The tables of the documentation that repeat what the code knows: they say the same."""

from __future__ import annotations

import configparser
import re
from dataclasses import fields
from pathlib import Path

import pytest

from pixir_sync import ProviderConfig
from pixir_sync.catalog import DEFAULT_MODEL
from pixir_sync.config_file import SECTIONS
from pixir_sync.endpoints import PRESETS, Preset
from pixir_sync.sources import AZURE_VARIABLE, VARIABLES, resolve

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str) -> list[list[str]]:
    """The cells of the first table of a page, without its head."""
    lines = [line for line in (DOCS / page).read_text(encoding="utf-8").split("\n\n- ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def described(name: str, preset: Preset) -> list[str]:
    """The row of a preset."""
    minutes = [f"{preset.age_limit / 60:g} min" if preset.age_limit else "-"]
    if preset.idle_limit:
        minutes.append(f"{preset.idle_limit / 60:g} min idle")
    return [
        f"`{name}`",
        f"`{preset.base_url}`" if preset.base_url else "your resource",
        f"`{preset.key_variable}`" + ("" if preset.needs_key else ", if there is one"),
        "yes" if preset.websocket else "no",
        ", ".join(minutes),
        f"{preset.frame_limit:,}" if preset.websocket else "-",
        *("yes" if fact else "no" for fact in (preset.store, preset.encrypted_reasoning, preset.lanes)),
    ]


def test_the_table_of_endpoints_is_that_of_the_code() -> None:
    """Row by row, in the same order."""
    assert rows("howto/endpoints.md") == [described(name, preset) for name, preset in PRESETS.items()]


def test_the_text_names_those_without_a_cache_to_keep() -> None:
    """The one fact that has no column."""
    text = (DOCS / "howto" / "endpoints.md").read_text(encoding="utf-8")
    found = re.search(r"`prompt_cache_retention` is not sent to (.*?)\.", text, re.DOTALL)
    assert found is not None
    assert re.findall(r"`(\w+)`", found[1]) == [name for name, preset in PRESETS.items() if not preset.cache_retention]


def test_the_table_of_options_has_every_option_and_its_sources() -> None:
    """Each argument, its variable, and its line or section of the file."""
    found = {name: row for row in rows("reference/configuration.md") for name in re.findall(r"`(\w+)`", row[0])}
    assert found.keys() == {f.name for f in fields(ProviderConfig)}
    for name, (_, variable, line, default) in found.items():
        if name in ("api_key", "credential"):
            assert "`OPENAI_API_KEY`" in variable and line == "never"
            continue
        wanted = [VARIABLES[name]] if name in VARIABLES else []
        assert [word for word in re.findall(r"`([A-Z_]+)`", variable) if word != AZURE_VARIABLE] == wanted, name
        assert (f"`{name}`" == line) is (name in SECTIONS["pixir"]), name
        assert (f"`[pixir.{name}]`" in line) is (f"pixir.{name}" in SECTIONS), name
        built_in = getattr(ProviderConfig(), name)
        if isinstance(built_in, str | bool):
            assert default == f"`{str(built_in).lower()}`", name
    assert found["model"][3] == f"`{DEFAULT_MODEL}`" and "`OPENAI_BASE_URL`" in found["base_url"][1]


def test_the_file_of_the_documentation_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read as it stands there; and as any other reader of such files would read it."""
    block = re.search(r"```ini\n(.*?)```", (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    path = tmp_path / "config.ini"
    path.write_text(block[1])
    monkeypatch.setenv("PIXIR_CONFIG", str(path))
    config = resolve({})
    other = configparser.ConfigParser()
    other.read(path)
    assert config.service == "azure" and config.url == other["pixir"]["base_url"] and config.model == other["pixir"]["model"]
    assert (config.timeouts.idle, config.timeouts.total) == (120, None) and config.requests_per_minute == 90
    assert config.network.proxy == other["pixir.network"]["proxy"]
