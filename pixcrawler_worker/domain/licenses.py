"""Identifiers of licenses: those of SPDX in lower case, whatever a provider calls them.

`cc0-1.0`, `cc-by-sa-4.0`, `cc-by-nc-nd-2.0-de`, `cc-pdm-1.0`; `public-domain` where only that is known. A license
without an identifier gets one as SPDX defines it: `licenseref-unsplash`. A family, such as `cc-by-sa`, stands for all
its versions.
"""

import functools
import re

from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError

#: Families: the licenses and public domain tools of Creative Commons, and public domain without a tool.
FAMILIES = (
    *("cc0", "cc-pdm", "public-domain"),
    *("cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd"),
)
_ALIASES = {"cc-zero": "cc0", "pdm": "cc-pdm", "cc-pd": "public-domain", "pd": "public-domain"}
_VERSIONED = re.compile(r"(?P<family>[a-z0-9-]*?[a-z0])-?(?P<version>[1-9]\.[0-9](-(?!migrated)[a-z]{2,10})?)?")
#: Characters of a notation that can be known.
_MAX_LENGTH = 200
#: Characters of a name that an error quotes.
_MAX_QUOTE = 60
#: What Creative Commons calls versions that are for no country in particular.
_NAMED_VERSION = re.compile(r"-(international|unported|generic|universal)(-license)?$")
#: Names in full, once spaces are hyphens. Without the first words they may be of any license.
_FULL_NAME = re.compile(
    r"(?:creative-commons|cc)-attribution(?P<nc>-non-?commercial)?"
    r"(?:(?P<sa>-share-?alike)|(?P<nd>-no-?deriv(?:ative)?s?(?:-works)?))?(?:-licen[cs]e)?(?P<version>-[1-9]\.[0-9](?:-[a-z]{2})?)?"
)
_FULL_ZERO = re.compile(
    r"(?:cc0|creative-commons-(?:zero|cc0))(?:-1\.0)?(?:-universal)?(?:-\(cc0-1\.0\))?(?:-public-domain-dedication)?"
)
_FULL_MARK = re.compile(r"(?:creative-commons-)?public-domain-mark(?:-1\.0)?")
#: A version as GBIF writes it: `CC_BY_4_0`.
_SPLIT_VERSION = re.compile(r"-([1-9])-([0-9])$")
_CUSTOM = re.compile(r"licenseref-[a-z0-9.-]{1,60}")
#: The two kinds of URLs of Creative Commons deeds (https://creativecommons.org/licenses/).
_DEED = re.compile(
    r"(?:(?:https?:)?//)?(?:www\.)?creativecommons\.org/(?P<kind>licenses|publicdomain)/(?P<name>[a-z-]+)"
    r"(?:/(?P<version>[1-9]\.[0-9])(?:/(?!deed|legalcode)(?P<port>[a-z]{2,10}))?)?(?:[/#?].*)?",
)


def normalized(text: str) -> str | None:
    """Return the identifier of a known license or family in any usual notation; None for an unknown one.

    Accepts `CC BY-SA 4.0`, `cc-by-sa-4.0`, `by-sa 4.0`, `CC0`, `Public domain`, `CC_BY_SA_4_0`, names in full such as
    `Creative Commons Attribution-ShareAlike 4.0 International`, and the URLs of Creative Commons deeds.
    """
    if len(text) > _MAX_LENGTH:
        return None
    lowered = text.strip().lower()
    if deed := _DEED.fullmatch(lowered):
        name = {"zero": "cc0", "mark": "cc-pdm"}.get(deed["name"], deed["name"])
        lowered = "-".join(filter(None, (name, deed["version"], deed["port"])))
    plain = _NAMED_VERSION.sub("", re.sub(r"[\s_/\u2010-\u2015\u2212-]+", "-", lowered).strip("-"))
    plain = _abbreviated(_SPLIT_VERSION.sub(r"-\1.\2", plain)).replace("nd-nc", "nc-nd")
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


def _abbreviated(plain: str) -> str:
    """Return the short form of a name in full; any other text as it is."""
    if _FULL_ZERO.fullmatch(plain):
        return "cc0-1.0" if "1.0" in plain else "cc0"
    if _FULL_MARK.fullmatch(plain):
        return "cc-pdm-1.0" if "1.0" in plain else "cc-pdm"
    found = _FULL_NAME.fullmatch(plain)
    if found is None:
        return plain
    return "cc-by" + "".join(f"-{part}" for part in ("nc", "sa", "nd") if found[part]) + (found["version"] or "")


def identifier(text: str) -> str | None:
    """Return the identifier to store for the license that a provider names; None for a blank name.

    An unknown license becomes `licenseref-` with its name.
    """
    if found := normalized(text):
        # These two have only one version.
        return f"{found}-1.0" if found in {"cc0", "cc-pdm"} else found
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60]
    return f"licenseref-{plain}" if plain else None


def parse(text: str) -> str:
    """Return the identifier of a license, or of a family, that a caller names.

    Raises:
        PermanentError: when it is unknown; the message has the nearest name.
    """
    if found := normalized(text):
        return found
    raise PermanentError(f"there is no license {text[:_MAX_QUOTE]!r}; {hint(text, FAMILIES)}")


def family(license_id: str) -> str:
    """Return the family of an identifier: `cc-by` for `cc-by-4.0`."""
    found = _VERSIONED.fullmatch(license_id)
    return found["family"] if found and found["family"] in FAMILIES else license_id


@functools.lru_cache(maxsize=256)  # called for every image
def deed_url(license_id: str) -> str | None:
    """Return the URL of the deed of a Creative Commons license; None for any other license."""
    found = _VERSIONED.fullmatch(license_id)
    if found is None or not found["version"] or found["family"] not in FAMILIES:
        return None
    version, _, port = found["version"].partition("-")
    kinds = {"cc0": "publicdomain/zero", "cc-pdm": "publicdomain/mark"}
    kind = kinds.get(found["family"]) or f"licenses/{found['family'].removeprefix('cc-')}"
    return "/".join(filter(None, ("https://creativecommons.org", kind, version, port))) + "/"


def is_allowed(license_id: str | None, allowed: tuple[str, ...] | None) -> bool:
    """Return whether a license is one of the allowed licenses and families.

    Args:
        license_id: identifier of the license; None when it is unknown, which only `allowed=None` allows.
        allowed: identifiers of licenses and families; None for all.
    """
    return allowed is None or (license_id is not None and not {license_id, family(license_id)}.isdisjoint(allowed))
