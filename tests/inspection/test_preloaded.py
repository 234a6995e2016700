import pickle
import subprocess
import sys
from pathlib import Path

from inspection import samples

#: Opens, measures and converts images in every way, in a process that has imported what a decode process has; prints
#: what else is imported or opened for that.
SCRIPT = """
import pickle, sys, traceback
from pixcrawler_worker.domain.facts import WRITTEN_FORMATS
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.inspection import __main__, inspector
from pixcrawler_worker.inspection.conversion import Conversion
from pixcrawler_worker.inspection.crop import Crop
from pixcrawler_worker.inspection.limits import Limits

limits = Limits()
with open(sys.argv[1], "rb") as file:
    bodies = pickle.load(file)
conversions = [
    Conversion(format=format_, mode=mode, size=40, orient=orient, strip=not orient)
    for format_ in WRITTEN_FORMATS
    for mode, orient in ((None, False), ("pad", True))
]
found = []

def audit(event, arguments):
    if event == "import" or (event == "open" and not str(arguments[0]).endswith(".py")):
        found.append(f"{event} {arguments[0]}")

sys.addaudithook(audit)
for number, body in enumerate(bodies):
    for use in (
        lambda: inspector.inspect_bytes(body, limits),
        lambda: inspector.measure_bytes(body, limits, strict=True),
        lambda: inspector.thumbnail(body, 64, limits),
        lambda: inspector.crop(body, Crop(width=32, height=32, resized=40), limits),
        # All ways of writing for the whole ones of each format; in turn for the others.
        *(
            lambda conversion=conversion: inspector.convert(body, conversion, limits)
            for conversion in (conversions if number < int(sys.argv[2]) else [conversions[number % len(conversions)]])
        ),
    ):
        try:
            use()
        except RejectedError:
            pass
try:
    limits.max_pixel
except AttributeError:
    traceback.format_exc()
print(*sorted(set(found)), sep="\\n", end="")
"""


def test_opening_images_imports_and_opens_nothing(tmp_path: Path) -> None:
    whole = [samples.variant(name, 48, 40) for name in samples.VARIANTS]
    broken = [body[: len(body) * 2 // 3] for body in whole]
    damaged = [body[: len(body) // 2] + bytes(30) + body[len(body) // 2 + 30 :] for body in whole]
    hostile = [make() for make, _ in samples.hostile().values()]
    (tmp_path / "bodies").write_bytes(pickle.dumps([*whole, *broken, *damaged, *hostile]))
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "bodies"), str(len(whole))],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.splitlines() == []
