"""What each rejection reason means, and what to do about it: the words of reports, command line and docs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pixcrawler_worker.domain.reasons import Reason


@dataclass(frozen=True, slots=True)
class Explanation:
    """A rejection reason in words, as plain text.

    Attributes:
        meaning: a few words, to be read after a count.
        remedy: what to do about it: a sentence or two.
        is_usual: whether there is nothing to do about it.
    """

    meaning: str
    remedy: str
    is_usual: bool = False


#: For reasons that say nothing lasting about a candidate.
_RETRY = "Run `pixcrawler jobs retry JOB`: it requests these URLs again"

EXPLANATIONS: Mapping[Reason, Explanation] = {
    Reason.BAD_URL: Explanation(
        "invalid URL",
        "Correct the list, if it is from one: one http or https URL per line, without user name, password or spaces, "
        "at most 8,192 characters. Those that a search has found are left out: there is nothing to do.",
    ),
    Reason.FORBIDDEN_ADDRESS: Explanation(
        "IP address in a private network",
        "To download from your own network, list it in PIXCRAWLER_ALLOWED_NETWORKS for the worker, for example "
        "127.0.0.0/8.",
    ),
    Reason.FORBIDDEN_PORT: Explanation(
        "port that is not allowed",
        "Use URLs on port 80 or 443. Networks in PIXCRAWLER_ALLOWED_NETWORKS are allowed on every port.",
    ),
    Reason.INSECURE_REDIRECT: Explanation(
        "redirect from https to http", "Use the URL to which the host redirects, if you trust it without https."
    ),
    Reason.UNRESOLVED: Explanation(
        "unknown host name", f"Check the spelling of the host name and the name server of the worker. {_RETRY}."
    ),
    Reason.CONNECT_FAILED: Explanation(
        "no connection to the host", f"Check that the worker reaches the host, or its proxy. {_RETRY}."
    ),
    Reason.TLS_FAILED: Explanation(
        "invalid TLS certificate",
        "Check the clock of the worker and the certificate of the host. A wrong certificate is never accepted.",
    ),
    Reason.TIMEOUT: Explanation(
        "no response in time", f"{_RETRY}. Raise PIXCRAWLER_FETCH_SECONDS for large files on slow hosts."
    ),
    Reason.RESET: Explanation("connection reset by the host", f"{_RETRY}."),
    Reason.TRUNCATED: Explanation("response shorter than announced", f"{_RETRY}."),
    Reason.TOO_MANY_REDIRECTS: Explanation(
        "too many redirects", "Open the URL in a browser, and use the URL at which the redirects end."
    ),
    Reason.BAD_RESPONSE: Explanation(
        "invalid HTTP response", "The host does not speak HTTP correctly: get the images from another host."
    ),
    Reason.HOST_UNAVAILABLE: Explanation("host down", f"{_RETRY} when the host is up."),
    Reason.NOT_FOUND: Explanation(
        "image not found", "The image was deleted or the URL is misspelled: correct the list, or leave it out."
    ),
    Reason.FORBIDDEN: Explanation(
        "access denied by the host",
        "The image needs a login or permission, or the host blocks the network of the worker: ask the host for access.",
    ),
    Reason.RATE_LIMITED: Explanation(
        "rate limit of the host exceeded",
        f"{_RETRY} later. Say who you are with PIXCRAWLER_USER_AGENT_CONTACT, and run fewer workers.",
    ),
    Reason.SERVER_ERROR: Explanation("server error", f"{_RETRY} later."),
    Reason.HTTP_STATUS: Explanation(
        "other HTTP error", "Open the URL in a browser to see what the host requires, and correct the list."
    ),
    Reason.TOO_MANY_BYTES: Explanation("file too large", "Raise PIXCRAWLER_MAX_IMAGE_BYTES for the worker."),
    Reason.EMPTY: Explanation("empty response", "The host has no file there: correct the list, or leave it out."),
    Reason.OPTED_OUT: Explanation(
        "owner opts out of indexes or AI training",
        "Leave these images out. If the opt-out does not bind you, give --ignore-opt-outs to a new job.",
    ),
    Reason.TDM_RESERVED: Explanation(
        "owner reserves text and data mining",
        "Leave these images out. If the reservation does not bind you, give --ignore-opt-outs to a new job.",
    ),
    Reason.ROBOTS_DISALLOWED: Explanation(
        "disallowed by robots.txt",
        "Leave these images out. If you have the permission of the host, give --ignore-robots to a new job.",
    ),
    Reason.ROBOTS_UNREACHABLE: Explanation("robots.txt could not be read", f"{_RETRY} when the host is up."),
    Reason.NOT_AN_IMAGE: Explanation(
        "not an image", "The URL returns a web page or another file: use the URL of the image itself."
    ),
    Reason.UNSUPPORTED_FORMAT: Explanation(
        "image format not supported", "Use JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or JPEG XL."
    ),
    Reason.PLACEHOLDER: Explanation(
        "placeholder of the host for a missing image", "The image was deleted: correct the list, or leave it out."
    ),
    Reason.FORMAT_NOT_WANTED: Explanation(
        "format not requested", "Accept more formats: the option `formats` of the crawl."
    ),
    Reason.TOO_MANY_PIXELS: Explanation(
        "too many pixels", "Raise PIXCRAWLER_MAX_IMAGE_PIXELS for the worker; decoding then takes more memory."
    ),
    Reason.TOO_COMPLEX: Explanation(
        "file structure too complex", "The file would take too long to decode. Save it again with an image editor."
    ),
    Reason.TOO_SMALL: Explanation("image too small", "Accept smaller images with --min-width and --min-height."),
    Reason.CORRUPT: Explanation(
        "corrupt image", "The file of the host is damaged. Get the image from another host, or leave it out."
    ),
    Reason.DECODER_DIED: Explanation(
        "decoder crashed", f"{_RETRY}. If it occurs again, leave the image out and report the file as a bug."
    ),
    Reason.INVALID_ENTRY: Explanation(
        "entry of the source without a URL",
        "The source returned entries that have no image: there is nothing to do.",
        is_usual=True,
    ),
    Reason.LICENSE_NOT_WANTED: Explanation(
        "license not accepted", "Accept more licenses with --license. Images without a known license are rejected too."
    ),
    Reason.DUPLICATE_URL: Explanation(
        "duplicate URL",
        "The job has met this URL before and processed it once: there is nothing to do.",
        is_usual=True,
    ),
    Reason.DUPLICATE_BYTES: Explanation(
        "duplicate file",
        "The job has the same file from another URL and keeps one of them: there is nothing to do.",
        is_usual=True,
    ),
    Reason.SURPLUS: Explanation(
        "more images than requested", "The job was complete. To get more images, raise --max-images in a new job."
    ),
    Reason.KNOWN_URL: Explanation(
        "URL of an image of another job",
        "Another job of the project has an image from this URL, and this job leaves such images out: there is nothing "
        "to do.",
        is_usual=True,
    ),
    Reason.KNOWN_BYTES: Explanation(
        "file that another job has",
        "Another job of the project has the same file, and this job leaves such images out: there is nothing to do.",
        is_usual=True,
    ),
    Reason.INTERNAL_ERROR: Explanation(
        "error of the worker, see its log",
        f"The log of the worker has the traceback: report it as a bug. {_RETRY}, for example after an upgrade.",
    ),
}


def explain(reason: str, *, job: str = "JOB") -> Explanation:
    """Return a reason in words; one that another version of the worker counted has its own name as its meaning.

    Args:
        reason: its name.
        job: argument of the command to type.
    """
    try:
        found = EXPLANATIONS[Reason(reason)]
    except ValueError:
        return Explanation(reason, "")
    return replace(found, remedy=found.remedy.replace("JOB", job))
