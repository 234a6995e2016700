"""Keys of image files in storage, and hashes of the URLs that they came from."""

import hashlib

from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.labels import slug

#: Hexadecimal digits of the SHA-256 in a file name: 128 bits, so that two images with one name cannot be made.
_NAME_DIGITS = 32


def url_hash(url: str) -> bytes:
    """Return the hash that identifies a URL: the first 16 bytes of its SHA-256, without the fragment."""
    return hashlib.sha256(url.partition("#")[0].encode("utf-8", "surrogatepass")).digest()[:16]


def crawl_job_prefix(crawl_job_id: int) -> str:
    """Return the prefix of the keys of all files of a crawl job."""
    return f"crawl_jobs/{crawl_job_id}/"


def image_filename(facts: ImageFacts) -> str:
    """Return the name of an image's file, which depends on its content alone."""
    return f"{facts.sha256.hex()[:_NAME_DIGITS]}.{facts.format}"


def image_key(crawl_job_id: int, label: str, facts: ImageFacts) -> str:
    """Return the key of an image's file."""
    return f"{crawl_job_prefix(crawl_job_id)}{slug(label)}/{image_filename(facts)}"
