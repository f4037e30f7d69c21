"""JSON in and JSON out, in one place, with one behaviour whichever library does the work.

Rules kept here:

* orjson does the work where it is installed (``pip install pixir-sync[fast]``), the standard library where it is not. What one
  of them refuses or changes and the other does not is evened out here, so that a program never behaves differently after
  installing an extra.
* An enumeration is its value and a UUID its text, with either library.
* ``dumps`` gives UTF-8 bytes and refuses what JSON cannot say (NaN, infinities, keys that are no strings, objects without a
  JSON form) rather than changing it.
* ``loads`` accepts what servers really send: lone surrogate escapes, integers of any size below 64 bits. It refuses the
  constants NaN and Infinity, which are not JSON.
* Errors never quote the text they are about.
* ``quick_loads`` is the library's own function, to be mapped over a batch without a frame of ours for each text (0.1 µs of an
  event's 3). It raises ValueError for what `loads` may accept: whoever uses it asks `loads` then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from enum import Enum
from typing import Any

try:
    import orjson
except ImportError:  # the extra [fast] is optional
    _FAST = False
else:
    _FAST = True

__all__ = ["CodecError", "dumps", "dumps_pretty", "loads", "quick_loads"]


class CodecError(ValueError):
    """The text is not JSON, or the value has no JSON form. The message names the place, never the content."""


def _refuse_constant(name: str) -> Any:
    raise CodecError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_raw_decode = _decoder.raw_decode


def _is_uuid(value: Any) -> bool:
    """Whether it is a `uuid.UUID`; told by name, because that module brings randomness with it."""
    return (type(value).__module__, type(value).__qualname__) == ("uuid", "UUID")


def _default(value: Any) -> Any:
    """The form of what only orjson knows by itself; `_check` lets nothing else through."""
    return value.value if isinstance(value, Enum) else str(value)


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default)


def _loads_std(text: str | bytes) -> Any:
    """The standard library's decoder; ``raw_decode`` first, because it is 1.7 times as fast as ``json.loads``."""
    try:
        if not isinstance(text, str):
            text = str(text, "utf-8")
        try:
            value, end = _raw_decode(text)
            if end == len(text):
                return value
        except ValueError:
            pass  # leading white space, or an error: the slow form tells which
        return _decoder.decode(text)
    except CodecError:
        raise
    except UnicodeDecodeError as error:
        raise CodecError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise CodecError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise CodecError("nested too deeply") from None
    except ValueError:  # more digits in a number than the interpreter converts
        raise CodecError("a number is too long") from None


def _check(value: Any, path: str) -> None:
    """Refuse what the two libraries treat differently; runs only where trouble was seen or is possible."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CodecError(f"{path or 'value'}: {value} is not JSON")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise CodecError(f"{path or 'value'}: a key is {type(key).__name__}, not str")
            _check(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check(inner, f"{path}[{index}]")
    elif isinstance(value, Enum):
        _check(value.value, path)
    elif value is not None and not isinstance(value, (str, int)) and not _is_uuid(value):
        raise CodecError(f"{path or 'value'}: {type(value).__name__} has no JSON form")


def _dumps_std(value: Any) -> bytes:
    try:
        _check(value, "")
        return _encoder.encode(value).encode("utf-8")
    except CodecError:
        raise
    except UnicodeEncodeError:
        raise CodecError("a string holds half of a surrogate pair") from None
    except RecursionError:
        raise CodecError("nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise CodecError(f"no JSON form: {type(error).__name__}") from None


if _FAST:
    _orjson_loads, _orjson_dumps = orjson.loads, orjson.dumps
    quick_loads: Callable[[bytes], Any] = _orjson_loads
    _OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

    def loads(text: str | bytes) -> Any:
        """The value of a JSON text, given as str or UTF-8 bytes. Raises `CodecError`."""
        try:
            return _orjson_loads(text)
        except ValueError:
            return _loads_std(text)  # lone surrogates pass there; what is wrong gets its message

    def dumps(value: Any) -> bytes:
        """Compact UTF-8 JSON. Raises `CodecError` for what has no JSON form."""
        try:
            data = _orjson_dumps(value, option=_OPTIONS)
        except TypeError:
            return _dumps_std(value)  # large integers pass there; what is wrong gets its message
        if b"null" in data:  # where orjson would have written null for NaN
            _check(value, "")
        return data

else:
    loads, dumps = _loads_std, _dumps_std
    quick_loads = _loads_std


def dumps_pretty(value: Any) -> str:
    """Indented JSON for people (the command line, previews). Raises `CodecError`."""
    return json.dumps(loads(dumps(value)), ensure_ascii=False, indent=2)
