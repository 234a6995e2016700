"""Licenses by one name each, whatever their providers call them: SPDX's identifiers in lower case.

`cc0-1.0`, `cc-by-sa-4.0`, `cc-by-nc-nd-2.0-de`, `cc-pdm-1.0`; `public-domain` where only that is known, and what SPDX
has no identifier for as SPDX writes it: `licenseref-unsplash`. A family, such as `cc-by-sa`, means all its versions.
"""

import functools
import re

from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError

#: Creative Commons' licenses, public domain tools included, and public domain without a tool.
FAMILIES = (
    *("cc0", "cc-pdm", "public-domain"),
    *("cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd"),
)
_ALIASES = {"cc-zero": "cc0", "pdm": "cc-pdm", "cc-pd": "public-domain", "pd": "public-domain"}
_VERSIONED = re.compile(r"(?P<family>[a-z0-9-]*?[a-z0])-?(?P<version>[1-9]\.[0-9](-(?!migrated)[a-z]{2,10})?)?")
_CUSTOM = re.compile(r"licenseref-[a-z0-9.-]{1,60}")
#: The two kinds of addresses of Creative Commons' deeds (https://creativecommons.org/licenses/).
_DEED = re.compile(
    r"(?:https?:)?//(?:www\.)?creativecommons\.org/(?P<kind>licenses|publicdomain)/(?P<name>[a-z-]+)"
    r"(?:/(?P<version>[1-9]\.[0-9])(?:/(?!deed|legalcode)(?P<port>[a-z]{2,10}))?)?(?:[/#?].*)?",
)


def normalized(text: str) -> str | None:
    """Return the identifier of a license that is written in any usual way; None when it is none that is known here.

    Understands `CC BY-SA 4.0`, `cc-by-sa-4.0`, `by-sa 4.0`, `CC0`, `Public domain`, and the addresses of Creative
    Commons' deeds.
    """
    lowered = text.strip().lower()
    if deed := _DEED.fullmatch(lowered):
        name = {"zero": "cc0", "mark": "cc-pdm"}.get(deed["name"], deed["name"])
        lowered = "-".join(filter(None, (name, deed["version"], deed["port"])))
    plain = re.sub(r"[\s_/-]+", "-", lowered).strip("-")
    if _CUSTOM.fullmatch(plain):
        return plain
    found = _VERSIONED.fullmatch(plain)
    if found is None:
        return None
    family = _ALIASES.get(found["family"], found["family"])
    if family not in FAMILIES and f"cc-{family}" in FAMILIES:
        family = f"cc-{family}"
    if family not in FAMILIES:
        return None
    return f"{family}-{found['version']}" if found["version"] else family


def named(text: str) -> str | None:
    """Return the identifier that a picture's license is kept under, whatever its provider calls it; None for no name.

    One that is not known here becomes `licenseref-` and what is left of its name.
    """
    if found := normalized(text):
        # There was never another version of these two.
        return f"{found}-1.0" if found in {"cc0", "cc-pdm"} else found
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60]
    return f"licenseref-{plain}" if plain else None


def asked(text: str) -> str:
    """Return a license, or a family of them, that somebody asks for.

    Raises:
        PermanentError: when there is none of that name; the message has the nearest one.
    """
    if found := normalized(text):
        return found
    raise PermanentError(f"there is no license {text!r}; {hint(text, FAMILIES)}")


def family(license_id: str) -> str:
    """Return the family of a license's identifier: `cc-by` for `cc-by-4.0`."""
    found = _VERSIONED.fullmatch(license_id)
    return found["family"] if found and found["family"] in FAMILIES else license_id


@functools.lru_cache(maxsize=256)  # asked for every image
def deed(license_id: str) -> str | None:
    """Return the address of a Creative Commons license's text; None for any other license."""
    found = _VERSIONED.fullmatch(license_id)
    if found is None or not found["version"] or found["family"] not in FAMILIES:
        return None
    version, _, port = found["version"].partition("-")
    kinds = {"cc0": "publicdomain/zero", "cc-pdm": "publicdomain/mark"}
    kind = kinds.get(found["family"]) or f"licenses/{found['family'].removeprefix('cc-')}"
    return "/".join(filter(None, ("https://creativecommons.org", kind, version, port))) + "/"


def is_wanted(license_id: str | None, wanted: tuple[str, ...] | None) -> bool:
    """Tell whether a picture under this license may be taken when these licenses and families were asked for."""
    return wanted is None or (license_id is not None and not {license_id, family(license_id)}.isdisjoint(wanted))
