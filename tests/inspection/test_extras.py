import subprocess
import sys

import pytest

#: Inspects an image in a process in which a module cannot be found.
WITHOUT = """
import sys

sys.modules[sys.argv[1]] = None  # as if it were not installed
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits
try:
    inspect_bytes(sys.stdin.buffer.read(), Limits())
except RejectedError as rejected:
    print(rejected)
"""


@pytest.mark.parametrize(
    ("extension", "module", "name", "body"),
    [
        ("heic", "pillow_heif", "a HEIC image", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("jxl", "pillow_jxl", "a JPEG XL image", b"\xff\x0a\xfa\x7f"),
        ("jxl", "pillow_jxl", "a JPEG XL image", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ],
)
def test_without_its_extra_a_format_is_unsupported_and_the_extra_is_named(
    extension: str, module: str, name: str, body: bytes
) -> None:
    command = [sys.executable, "-c", WITHOUT, module]
    printed = subprocess.run(command, input=body, capture_output=True, check=True, timeout=60).stdout.decode()
    assert printed == (
        f"unsupported_format: it looks like {name}, which needs an extra: "
        f"pip install 'pixcrawler-worker[{extension}]'\n"
    )
