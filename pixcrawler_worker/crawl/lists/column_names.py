"""Names that columns of lists usually have, by which those with URLs, captions and labels are found."""

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from pixcrawler_worker.crawl.lists.plain_text import IMAGE_PATH, is_url, trimmed

#: Names of the column with the URLs, in small letters and without what is between words, the most certain first: those
#: of img2dataset and LAION, of this service, of providers' exports, and what people write.
URLS = (
    "url",
    "imageurl",
    "urls",
    "imgurl",
    "sourceurl",
    "originalurl",
    "fileurl",
    "downloadurl",
    # In lists of Unsplash, `photo_url` is the page of a photo.
    "photoimageurl",
    "photourl",
    "contenturl",
    "mediaurl",
    "cocourl",
    "imagesrc",
    "imgsrc",
    "src",
    "href",
    # In feeds of products, `link` is a page.
    "imagelink",
    "link",
    "image",
    "img",
    "identifier",
    "uri",
)
#: Likewise, of the columns with captions and with labels.
CAPTIONS = ("caption", "imagecaption", "text", "alttext", "alt", "txt", "description")
LABELS = ("label", "labelname", "class", "classname", "category", "categoryname")
_IMAGE_NAME = re.compile("image|img|photo")


def by_name(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the name that is the first of the usual ones; None where none is one of them."""
    return next(iter(_usual(names, usual)), None)


def has_usual(names: Iterable[str]) -> bool:
    """Return whether one of these texts is the usual name of a column."""
    return any(_plain(one) in usual for one in names for usual in (URLS, CAPTIONS, LABELS))


def of_urls(columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column of URLs with a usual name; None where none has one.

    Where the first of the usual ones has pages, as the `url` of an export of iNaturalist, and one that is named after
    images has images, it is that one.

    Args:
        columns: the texts of those with URLs, by name.
    """
    found = _usual(list(columns), URLS)
    images = [one for one in found if _has_images(columns[one])]
    named = [one for one in images if _IMAGE_NAME.search(_plain(one))]
    chosen = named if named and found[0] not in images else found
    return next(iter(chosen), None)


def others_of_urls(names: Sequence[str], chosen: str) -> list[str]:
    """Return the other columns of URLs with usual names."""
    return [one for one in _usual(names, URLS) if one != chosen]


def is_image(url: str) -> bool:
    """Return whether a URL ends as that of an image file."""
    try:
        return IMAGE_PATH.search(urlsplit(url).path) is not None
    except ValueError:
        return False


def _has_images(urls: Sequence[str]) -> bool:
    found = [trimmed(one) for one in urls if is_url(trimmed(one))]
    return 2 * sum(map(is_image, found)) > len(found)


def _usual(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    return sorted((one for one in names if _plain(one) in usual), key=lambda one: usual.index(_plain(one)))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
