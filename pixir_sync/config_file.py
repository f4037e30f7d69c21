"""The configuration file: where it is, and what it says.

Rules kept here:

* It is a small INI file, read here line by line, because every error names its line, which the standard library's parser forgets.
* A file that says something that is not understood is refused as a whole: a setting that goes unheard is worse than an error.
* It holds no key. An error quotes names of it and never a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from pixir_sync.config import Keepalive, Network, PoolOptions, ProviderConfig, Timeouts
from pixir_sync.forking import importing
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.request import unknown_name
from pixir_sync.protocol.retry import RetryPolicy

__all__ = ["SECTIONS", "ConfigFile", "config_path", "read"]

_TOP = ("model", "transport", "endpoint", "base_url", "organization", "project", "continuation", "store", "requests_per_minute")
_GROUPS: dict[str, type[Any]] = {
    "timeouts": Timeouts, "retry": RetryPolicy, "pool": PoolOptions, "keepalive": Keepalive, "network": Network,
}  # fmt: skip
# Only where there is a file are these asked: `re` compiles them then.
_LINE = r"([^=:]+?)\s*[=:]\s*(.*)"
_SECRET = r"key|token|secret|password|credential"
_SETTINGS = ("~/.config", "~/Library/Application Support")
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _scalars(kind: type[Any]) -> dict[str, str]:
    """The fields that a line can give, with their types."""
    return {f.name: str(f.type) for f in fields(kind) if not str(f.type).startswith(("Mapping", "Callable"))}


SECTIONS: dict[str, dict[str, str]] = {
    "pixir": {name: kind for name, kind in _scalars(ProviderConfig).items() if name in _TOP},
    **{f"pixir.{name}": _scalars(kind) for name, kind in _GROUPS.items()},
}
"""What may stand in each section, with the types of the fields."""


class ConfigFile:
    """What the file says.

    Attributes:
        options: those of `Provider`, with their values. groups: fields of `Timeouts` and the like, by the option's name.
        places: file and line of each option, for errors.
    """

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.places: dict[str, str] = {}


def config_path() -> str:
    """The file: ``PIXIR_CONFIG``, else ``pixir/config.ini`` where the system keeps the settings of its users' programs.

    That is under ``XDG_CONFIG_HOME`` or ``~/.config``; on macOS, without that variable, ``~/Library/Application Support``.
    """
    named = os.environ.get("PIXIR_CONFIG", "").strip()
    if named:
        return os.path.expanduser(named)
    with importing:
        import platformdirs

    return os.path.join(platformdirs.user_config_dir("pixir", appauthor=False), "config.ini")


def _may_be_there() -> bool:
    """Whether a folder of ours is in a place that platformdirs may name: only then is it asked. It takes 7 ms of a cold start."""
    places = [os.environ.get("XDG_CONFIG_HOME", ""), *map(os.path.expanduser, _SETTINGS)]
    strange = not os.path.isabs(places[-1])  # what HOME is then is for platformdirs to say
    return strange or any(os.path.isdir(os.path.join(place, "pixir")) for place in places)


def read() -> ConfigFile:
    """What the configuration file says; nothing where there is none. Raises `InvalidRequest` that names the file and the line.

    One that ``PIXIR_CONFIG`` names must be there; the null device stands for none.
    """
    found, named = ConfigFile(), bool(os.environ.get("PIXIR_CONFIG", "").strip())
    if not named and not _may_be_there():
        return found
    path = config_path()
    if not os.path.isfile(path):
        if named and path != os.devnull:
            raise InvalidRequest(f"PIXIR_CONFIG: there is no file {path}")
        return found
    for place, section, name, text in _lines(path):
        value = _value(place, section, name, text)
        group = section.removeprefix("pixir.")
        if section == "pixir":
            found.options[name], found.places[name] = value, f"{place}{name}"
            continue
        try:
            _GROUPS[group](**{name: value})
        except InvalidRequest as error:
            raise InvalidRequest(f"{place}{error.message}") from None
        found.groups.setdefault(group, {})[name] = value
    return found


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InvalidRequest(f"the configuration file {path} cannot be read: {type(error).__name__}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise InvalidRequest(f"{path}, line {number}: this is not UTF-8") from None


def _lines(path: str) -> Iterator[tuple[str, str, str, str]]:
    """Place, section, name and value of each line that gives one. What is empty gives nothing."""
    section, seen = "", set[tuple[str, str]]()
    for number, line in enumerate(_text(path).split("\n"), 1):
        place, line = f"{path}, line {number}: ", line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            section = _section(place, line)
            name = ""
        else:
            found = re.fullmatch(_LINE, line)
            if found is None:
                raise InvalidRequest(f"{place}this is no setting; one looks like: model = name")
            name, text = found[1].lower(), found[2]
            _check_name(place, section, name)
            if text:
                yield place, section, name, text
        if (section, name) in seen:
            raise InvalidRequest(f"{place}{name or section} was given before")
        seen.add((section, name))


def _section(place: str, line: str) -> str:
    name = line[1:-1].strip() if line.endswith("]") else ""
    if not name:
        raise InvalidRequest(f"{place}this is no section; one looks like: [pixir]")
    if name not in SECTIONS:
        raise InvalidRequest(place + unknown_name("section", name, list(SECTIONS)).message)
    return name


def _check_name(place: str, section: str, name: str) -> None:
    if not section:
        raise InvalidRequest(f"{place}this stands in no section; the first line is [pixir]")
    if name in SECTIONS[section]:
        return
    if re.search(_SECRET, name):
        raise InvalidRequest(f"{place}a key does not belong in this file; use the environment, such as OPENAI_API_KEY")
    raise InvalidRequest(place + unknown_name(f"key of [{section}]", name, list(SECTIONS[section])).message)


def _value(place: str, section: str, name: str, text: str) -> Any:
    """The value that a text means for a field of this type."""
    kind = SECTIONS[section][name]
    if "None" in kind and text.lower() == "none":
        return None
    read, says = _READERS.get(kind.removesuffix(" | None"), (str, ""))
    try:
        return read(text)
    except (KeyError, ValueError):
        also = ", or none" if "None" in kind else ""
        raise InvalidRequest(f"{place}{name} must be {says}{also}") from None


def _flag(text: str) -> bool:
    return _FLAGS[text.lower()]


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": (_flag, "true or false"), "int": (int, "a whole number"), "float": (float, "a number"),
}  # fmt: skip
