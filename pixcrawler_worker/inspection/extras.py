"""Formats whose decoder comes with an extra of this package: they are decoded where it is installed."""

import importlib
from functools import cache
from importlib.util import find_spec
from types import ModuleType

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: By format: its name, and the module that decodes it. The extra has the name of the format.
_MODULES = {"heic": ("a HEIC image", "pillow_heif"), "jxl": ("a JPEG XL image", "pillow_jxl")}


def require(extension: str) -> None:
    """Raise RejectedError, UNSUPPORTED_FORMAT, when the decoder of a format is not installed."""
    name, module = _MODULES[extension]
    if not _is_installed(module):
        raise RejectedError(
            Reason.UNSUPPORTED_FORMAT,
            f"it looks like {name}, which needs an extra: pip install 'pixcrawler-worker[{extension}]'",
        )


def decoder(extension: str) -> ModuleType | None:
    """Return the module that decodes a format, imported now if it was not before; None for formats without an extra.

    Only the decode process calls this.

    Raises:
        RejectedError: UNSUPPORTED_FORMAT when it is not installed.
    """
    if extension not in _MODULES:
        return None
    require(extension)
    return importlib.import_module(_MODULES[extension][1])


@cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
