"""The checks of a validation in words, as reports show them."""

from collections.abc import Mapping

from pixcrawler_worker.domain import explanations
from pixcrawler_worker.domain.checks import INTERNAL_ERROR, Finding, Value

#: What each check finds.
MEANINGS: Mapping[str, str] = {
    "decode": "file missing, or not decodable",
    "strict_jpeg": "JPEG data with errors",
    "formats": "format not allowed",
    "extension_match": "extension that differs from the format",
    "content_hash": "file changed since the crawl",
    "file_size": "very small or very large file",
    "dimensions": "too small or too large",
    "aspect_ratio": "very wide or very high",
    "odd_size": "size unlike the other images",
    "dark": "dark everywhere",
    "light": "white everywhere",
    "low_information": "little information",
    "uniform": "one color",
    "blurry": "blurred",
    "grayscale": "without color",
    "animated": "animation, or several pages",
    "transparency": "transparent pixels",
    "color_mode": "neither RGB nor gray levels",
    "exif_orientation": "stored rotated",
    "exif_gps": "GPS location in the file",
    "exact_duplicate": "same content as another image",
    "near_duplicate": "looks like another image",
    "blocked_hash": "on your list of blocked images",
    "required_metadata": "metadata missing",
    "relevance": "does not show its label",
    "nsfw": "not safe for work",
    INTERNAL_ERROR: "not checked: error of the worker",
}
#: The value and the threshold of a finding in words, where it has both.
_MEASURED: Mapping[str, str] = {
    "decode": "{value} pixels or frames, at most {threshold} allowed",
    "formats": "format {value}, allowed: {threshold}",
    "extension_match": "extension {value!r}, but the content is {threshold}",
    "content_hash": "SHA-256 {value}, recorded {threshold}",
    "file_size": "{value} bytes, limit {threshold} bytes",
    "dimensions": "{value} pixels, limit {threshold}",
    "aspect_ratio": "longer side {value} times the shorter one, limit {threshold}",
    "odd_size": "side of {value} pixels on average, limit for this job {threshold}",
    "dark": "brightness {value}, flagged below {threshold}",
    "light": "brightness {value}, flagged above {threshold}",
    "low_information": "{value} bits of information, flagged below {threshold}",
    "uniform": "contrast {value}, flagged below {threshold}",
    "blurry": "sharpness {value}, flagged below {threshold}",
    "grayscale": "colors differ by {value}, flagged up to {threshold}",
    "animated": "{value} frames",
    "color_mode": "color mode {value}",
    "exif_orientation": "EXIF orientation {value}",
    "near_duplicate": "looks like image {value}",
    "relevance": "similarity to its label {value}, flagged below {threshold}",
    "nsfw": "probability {value} of not being safe for work, flagged above {threshold}",
}
#: The same for findings without a threshold.
_FOUND: Mapping[str, str] = {
    "strict_jpeg": "JPEG error: {value}",
    "transparency": "transparent, color mode {value}",
    "exif_gps": "has a GPS location",
    "exact_duplicate": "same content as image {value}",
    "blocked_hash": "blocked hash {value}",
    "required_metadata": "missing: {value}",
}
#: Characters of a digest that are shown.
_DIGEST = 12


def heading(check: str) -> str:
    """Return a check as a heading: its name, and what it finds. A classifier has its name alone."""
    found = MEANINGS.get(check)
    return check if found is None else f"{check}: {found}"


def describe(finding: Finding) -> str:
    """Return what was measured and the limit, in one line."""
    value, threshold = _text(finding.value), _text(finding.threshold)
    if finding.value is None:
        return MEANINGS.get(finding.check, finding.check)
    if finding.check == "decode" and finding.threshold is None:
        known = {"missing": "file missing in the storage", "unreadable": "file not readable in the storage"}
        return known.get(value) or explanations.explain(value).meaning
    if finding.threshold is None:
        return _FOUND.get(finding.check, "{value}").format(value=value)
    # A classifier of another package has a name of its own, and a score.
    return _MEASURED.get(finding.check, "score {value}, flagged above {threshold}").format(
        value=value, threshold=threshold
    )


def _text(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR2004 - digits that people read
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    is_digest = len(text) == 64 and not set(text) - set("0123456789abcdef")  # noqa: PLR2004 - SHA-256 as digits
    return f"{text[:_DIGEST]}..." if is_digest else text
