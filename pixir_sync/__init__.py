"""pixir_sync: the Responses API for synchronous Python.

>>> from pixir_sync import Provider
>>> with Provider(model="gpt-5.5").stream("Say hi") as stream:  # doctest: +SKIP
...     for event in stream:
...         print(event.text, end="", flush=True)

The public names are those of `pixir_sync.public`. They are imported when the first of them is used: every run of pytest imports
this package for its plugin, whether a test uses it or not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixir_sync.public import *  # noqa: F403
    from pixir_sync.public import __all__ as __all__
else:  # unseen by a type checker, which would take any name for one that this gives

    def __getattr__(name: str) -> Any:
        """A public name at its first use: whatever came with it is there from then on."""
        from importlib import import_module

        public = import_module("pixir_sync.public")
        if name != "__all__" and name not in public.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(public, name)
        globals().update({known: vars(public)[known] for known in ["__all__", *public.__all__] if known in vars(public)})
        return found

    def __dir__() -> list[str]:
        """What a shell completes."""
        return sorted({*globals(), *__getattr__("__all__")})
