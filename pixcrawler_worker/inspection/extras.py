"""Formats whose decoder comes with an extra of this package: they are decoded where it is installed."""

import importlib
from functools import cache
from types import ModuleType

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: By format: its name, and the module that decodes it. The extra has the name of the format.
_MODULES = {"heic": ("a HEIC image", "pillow_heif"), "jxl": ("a JPEG XL image", "pillow_jxl")}


def require(extension: str) -> None:
    """Raise RejectedError, UNSUPPORTED_FORMAT, when the decoder of a format is not installed."""
    if decoder(extension) is None:
        raise RejectedError(
            Reason.UNSUPPORTED_FORMAT,
            f"it looks like {_MODULES[extension][0]}, which needs an extra: "
            f"pip install 'pixcrawler-worker[{extension}]'",
        )


@cache
def decoder(extension: str) -> ModuleType | None:
    """Return the module that decodes a format; None when it is not installed. Only the decode process calls this."""
    try:
        return importlib.import_module(_MODULES[extension][1])
    except ImportError:
        return None
