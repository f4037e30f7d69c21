"""Which model a call gets, and where that is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixir_sync import InvalidRequest, Provider
from pixir_sync.catalog import DEFAULT_MODEL, PRESETS, config_path, default_model, reasons
from pixir_sync.local import LocalServer
from tests.support.fake import provider_for


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file, not yet written, and nothing else that names a model."""
    monkeypatch.delenv("PIXIR_MODEL", raising=False)
    monkeypatch.setenv("PIXIR_CONFIG", str(tmp_path / "config.ini"))
    return tmp_path / "config.ini"


@pytest.mark.row("A23")
@pytest.mark.parametrize(
    ("argument", "variable", "file", "wanted"),
    [
        ("arg", "env", "[pixir]\nmodel = file\n", "arg"),
        (None, "env", "[pixir]\nmodel = file\n", "env"),
        (None, None, "[pixir]\nmodel = file\n", "file"),
        (None, "", "[pixir]\nmodel = file%20x\n", "file%20x"),
        (None, " ", "[pixir]\nmodel =\n", DEFAULT_MODEL),
        (None, None, "[other]\nmodel = file\n", DEFAULT_MODEL),
        (None, None, None, DEFAULT_MODEL),
    ],
)
def test_the_default_model_has_an_order(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, file: str | None, wanted: str
) -> None:
    """The argument, PIXIR_MODEL, the configuration file, the built-in one: and that model is what the server is asked for."""
    if variable is not None:
        monkeypatch.setenv("PIXIR_MODEL", variable)
    if file is not None:
        config_file.write_text(file)
    with LocalServer() as server, provider_for(server, model=argument) as provider:
        assert provider.default_model() == wanted
        provider.complete("Hi")
        provider.complete("Hi", model="own")
        assert [request.body["model"] for request in server.requests] == [wanted, "own"]


@pytest.mark.parametrize("content", [b"model = no section", b"\xff\xfe\x00", b"[pixir]\n[pixir]\n"])
def test_a_configuration_file_that_is_none_is_refused(config_file: Path, content: bytes) -> None:
    """The error names the file and quotes nothing of it."""
    config_file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"config\.ini cannot be read") as caught:
        Provider()
    assert "no section" not in caught.value.message
    with Provider(model="m") as provider:
        assert provider.default_model() == "m"


def test_the_configuration_file_has_its_places(tmp_path: Path) -> None:
    """PIXIR_CONFIG, else XDG_CONFIG_HOME, else ~/.config."""
    assert config_path({"PIXIR_CONFIG": str(tmp_path / "x")}) == tmp_path / "x"
    assert config_path({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "pixir" / "config.ini"
    assert config_path({}) == Path.home() / ".config" / "pixir" / "config.ini"
    assert default_model(None, {"PIXIR_CONFIG": str(tmp_path / "none")}) == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("gpt-5.5", True), ("GPT-5", True), ("openai/o3-mini", True), ("o4-mini", True), ("grok-4", True), ("codex-mini", True),
     ("gpt-4.1", False), ("gpt-5-chat-latest", False), ("gpt-4o", False), ("local-model", False), ("", False)],
)  # fmt: skip
def test_models_that_reason_are_asked_for_their_reasoning(model: str, wanted: bool) -> None:
    """Only they: others answer such a request with 400. Without a listing, asking for an effort is a sign."""
    assert reasons(model) is wanted
    if model:
        with Provider(model=model) as provider:
            assert ("include" in provider.request_body_preview("Hi")) is wanted
            assert "include" in provider.request_body_preview("Hi", reasoning_effort="low")
            assert "include" not in provider.request_body_preview("Hi", reasoning_effort="low", store=True)


def test_an_unknown_model_is_sent_as_it_is() -> None:
    """The catalogue is knowledge that ages; the server decides, here that a model which does not reason is asked for nothing."""
    with LocalServer(reasoning_models=[]) as server, provider_for(server, model="brand-new") as provider:
        assert provider.complete("Hi").model == "brand-new"


def test_every_preset_is_a_usable_endpoint() -> None:
    """Each makes a provider that needs nothing but its key's variable."""
    for name, preset in PRESETS.items():
        with Provider(endpoint=name, model="m") as provider:
            assert provider.config.url == preset.base_url and preset.key_variable.isidentifier()
