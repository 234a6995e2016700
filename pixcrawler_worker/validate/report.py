"""HTML report on a validation: results, findings, image statistics, the worst images per check, and duplicates."""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path

from pixcrawler_worker import html_report
from pixcrawler_worker.db import job_views, validation_results
from pixcrawler_worker.db.job_views import CrawlView, ValidationView
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.validation_results import ValidatedImage
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.checks import Severity, Value
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.html_report import DatasetFiles, Places, Table
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate import wording
from pixcrawler_worker.validate.rules import ValidationRules, parse

#: Images that are shown per check, the worst ones first.
_MAX_WORST = 8
#: Groups of duplicates that are shown, the largest ones first, and images per group.
_MAX_GROUPS, _GROUP_SIZE = 12, 6
#: Bins of a histogram.
_BINS = 40

_BELOW, _ABOVE = "below", "above"


@dataclass(frozen=True, slots=True)
class _Metric:
    """A metric of images, and the parameter of the check that limits it."""

    name: str
    heading: str
    unit: str
    check: str
    parameter: str
    side: str
    low: float
    high: float
    is_score: bool = False


_METRICS = (
    _Metric("brightness_p99", "Brightness", "99th percentile", "dark", "p99_below", _BELOW, 0, 1),
    _Metric("brightness_p5", "Brightness", "5th percentile", "light", "p5_above", _ABOVE, 0, 1),
    _Metric("entropy", "Entropy", "bits", "low_information", "entropy_below", _BELOW, 0, 8),
    _Metric("std", "Contrast", "standard deviation", "uniform", "std_below", _BELOW, 0, 128),
    _Metric("sharpness", "Sharpness", "score", "blurry", "score_below", _BELOW, 0, 1),
)
#: Scores of classifiers: heading and unit.
_SCORES = {"relevance": ("Relevance", "similarity of image and label"), "nsfw": ("Not safe for work", "probability")}
#: Scores that are flagged below a threshold, and those that no check is about.
_LOW_IS_BAD, _WITHOUT_CHECK = frozenset({"relevance"}), frozenset({"relevance_probability"})


@dataclass(frozen=True, slots=True)
class _Content:
    """The data of the report.

    Attributes:
        job: the validation.
        name: of its crawl job.
        results: of the images that still exist.
        worst, groups, conspicuous: see `_worst`, `_groups` and `_conspicuous`.
        thumbnails: by the ids of images.
        files: where the images are in a dataset.
    """

    job: ValidationView
    name: str
    results: Sequence[ValidatedImage]
    worst: Mapping[str, Sequence[ValidatedImage]]
    groups: Sequence[Sequence[ValidatedImage]]
    conspicuous: Mapping[str, Sequence[ValidatedImage]]
    thumbnails: Mapping[int, bytes]
    files: DatasetFiles


def write_validation_report(runtime: Runtime, job_id: int, path: Path, *, dataset: Path | None = None) -> Path:
    """Write the HTML report on a validation job and return its path. Images are embedded.

    Args:
        runtime: connects to database, storage and decoder.
        job_id: the row in `validation_jobs`.
        path: of the report.
        dataset: folder of a dataset with the images of the crawl job, to whose files the report links.

    Raises:
        PermanentError: when there is no such job, or the file cannot be written.
        TransientError: when database or storage do not respond.
    """

    def read(session: Session) -> tuple[ValidationView, str, Sequence[ValidatedImage]] | None:
        job = job_views.job(session, ValidationView, job_id)
        if job is None:
            return None
        crawl = job_views.job(session, CrawlView, job.crawl_job_id)
        return job, crawl.name if crawl else job.name, validation_results.validated_images(session, job_id)

    found = transact(runtime.sessions, read)
    if found is None:
        raise UnknownJobError(VALIDATION_JOBS.name, job_id)
    job, name, results = found
    worst, groups, conspicuous = _worst(results), _groups(results), _conspicuous(results)
    shown = {image.id: image for images in (*worst.values(), *groups, *conspicuous.values()) for image in images}
    stored = {image.id: image.storage_url for image in shown.values() if image.storage_url}
    thumbnails = runtime.run(html_report.thumbnails(runtime, stored.items()))
    files = DatasetFiles(dataset, path, [image.original_url for image in shown.values()])
    content = _Content(job, name, results, worst, groups, conspicuous, thumbnails, files)
    return html_report.save(path, f"Validation: {name}", _parts(content))


def _parts(found: _Content) -> Iterator[str]:
    job, results = found.job, found.results
    rules = parse(job.validation_rules)
    when = f", {job.completed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if job.completed_at else ""
    yield f"<h1>{escape(found.name)}</h1>"
    yield (
        f'<p class="soft">validation {job.id} ({escape(job.name)}) of crawl job {job.crawl_job_id},'
        f" level {rules.level}, mode {rules.effective_mode}, {escape(job.status)}{when}</p>"
    )
    if job.error_message:
        yield f"<p>{escape(job.error_message)}</p>"
    yield html_report.tiles(_tiles(found))
    yield '<div class="columns">'
    yield Table(heading="Images", counts=_outcomes(found), column="Result", unit="images").html()
    for severity, heading in ((Severity.ERROR, "Errors"), (Severity.WARN, "Warnings"), (Severity.INFO, "Notes")):
        counts = Counter(found.check for image in results for found in image.findings if found.severity is severity)
        flagged = sum(any(found.severity is severity for found in image.findings) for image in results)
        yield Table(
            heading=heading,
            counts=[(wording.heading(check), count) for check, count in html_report.frequent(counts)],
            column="Check",
            unit="findings",
            is_bad=severity is Severity.ERROR,
            note=f"In {flagged:,} image{'' if flagged == 1 else 's'}; an image may have several findings.",
        ).html()
    for valid, heading in ((False, "Invalid images by label"), (True, "Valid images by label")):
        labels = Counter(image.label for image in results if image.valid is valid)
        yield Table(
            heading=heading, counts=html_report.frequent(labels), column="Label", unit="images", is_bad=not valid
        ).html()
    yield "</div>"
    yield from histograms(results, rules)
    if found.worst:
        yield '<h2>Flagged images</h2><p class="soft">For each check, those farthest from its threshold come first.</p>'
    totals = Counter(one.check for image in results for one in image.findings)
    for check, images in found.worst.items():
        count = f"{len(images)} of {totals[check]:,}" if len(images) < totals[check] else f"{totals[check]:,}"
        yield f"<h3>{escape(wording.heading(check))} <small>{count}</small></h3>"
        yield _sheet(images, found, check)
    if found.conspicuous:
        yield '<h2>Scores</h2><p class="soft">Images that were not flagged, those nearest to the threshold first.</p>'
    for score, images in found.conspicuous.items():
        order = "lowest" if score in _LOW_IS_BAD else "highest"
        yield f"<h3>{escape(wording.heading(score))} <small>{order} scores</small></h3>"
        yield _sheet(images, found, score)
    yield from _duplicates(found)


def _tiles(found: _Content) -> Iterator[tuple[str, str]]:
    job = found.job
    yield f"{job.total_images:,}", "images"
    yield f"{job.validated_images:,}", "valid"
    yield f"{job.invalid_images:,}", "invalid"
    if rest := job.total_images - job.validated_images - job.invalid_images:
        yield f"{rest:,}", "not validated"
    yield f"{sum(1 for image in found.results if image.findings):,}", "with findings"
    yield f"{len(_clusters(found.results)):,}", "groups of duplicates"


def _outcomes(found: _Content) -> list[tuple[str, int]]:
    """Return the images of the job by their results; those that were deleted since are not shown anywhere else."""
    job = found.job
    valid = sum(image.valid for image in found.results)
    invalid = len(found.results) - valid
    lines = (
        ("valid", valid),
        ("invalid", invalid),
        ("valid, deleted since", job.validated_images - valid),
        ("invalid, deleted since", job.invalid_images - invalid),
        ("not validated", job.total_images - job.validated_images - job.invalid_images),
    )
    return [(name, count) for at, (name, count) in enumerate(lines) if count or at < 2]  # noqa: PLR2004 - always shown


def _duplicates(found: _Content) -> Iterator[str]:
    clusters = _clusters(found.results)
    if not clusters:
        return
    count = f"{len(found.groups)} of {len(clusters):,} groups" if len(found.groups) < len(clusters) else ""
    yield f'<h2>Duplicates <small>{count}</small></h2><p class="soft">The first image of each group is kept.</p>'
    for number, group in enumerate(found.groups, 1):
        # The first one may be deleted.
        keeper = group[0].keeper_id or group[0].id
        total = len(clusters[keeper]) + (group[0].id == keeper)
        shown = f"{len(group)} of {total:,} images" if len(group) < total else f"{total:,} images"
        yield f"<h3>Group {number} <small>{shown}</small></h3>"
        yield _sheet(group, found, "")


def _worst(results: Sequence[ValidatedImage]) -> dict[str, list[ValidatedImage]]:
    """Return the images that exceed the threshold of each check most; errors first, then warnings, then notes."""
    by_check: defaultdict[tuple[Severity, str], list[tuple[float, str, ValidatedImage]]] = defaultdict(list)
    for image in results:
        for found in image.findings:
            if image.keeper_id is None or not found.check.endswith("_duplicate"):
                by_check[found.severity, found.check].append(
                    (_excess(found.value, found.threshold), image.original_url, image)
                )
    order = list(Severity)
    ranked = sorted(by_check.items(), key=lambda entry: (order.index(entry[0][0]), entry[0][1]))
    return {
        check: [image for _, _, image in sorted(images, key=lambda one: (-one[0], one[1]))[:_MAX_WORST]]
        for (_, check), images in ranked
    }


def _conspicuous(results: Sequence[ValidatedImage]) -> dict[str, list[ValidatedImage]]:
    """Return the images whose scores are next to be flagged, of each classifier that flagged less than a sheet of them.

    They show whether its threshold is right for the job.
    """
    found: dict[str, list[ValidatedImage]] = {}
    for name in _score_names(results):
        sign = 1 if name in _LOW_IS_BAD else -1
        flagged, others = 0, []
        for image in results:
            if any(one.check == name for one in image.findings):
                flagged += 1
            elif (score := _scores(image).get(name)) is not None:
                others.append((sign * score, image.original_url, image.id, image))
        if flagged < _MAX_WORST and others:
            found[name] = [image for *_, image in heapq.nsmallest(_MAX_WORST - flagged, others)]
    return found


def _scores(image: ValidatedImage) -> Mapping[str, float]:
    """Return the scores of an image; none where its row says something else."""
    found = image.metrics.get("scores")
    if not isinstance(found, Mapping):
        return {}
    return {name: score for name, score in found.items() if isinstance(score, int | float) and math.isfinite(score)}


def _score_names(results: Sequence[ValidatedImage]) -> list[str]:
    """Return the names of scores that checks are about, sorted."""
    return sorted({name for image in results for name in _scores(image)} - _WITHOUT_CHECK)


def _excess(value: Value, threshold: Value) -> float:
    """Return the distance of a value from its threshold; 0 where one of them is not a number."""
    if isinstance(value, int | float) and isinstance(threshold, int | float):
        return abs(value - threshold)
    return 0


def _clusters(results: Sequence[ValidatedImage]) -> dict[int, list[int]]:
    """Return the ids of the duplicates in each group, by the id of the image that is kept."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for image in results:
        if image.keeper_id is not None:
            found[image.keeper_id].append(image.id)
    return found


def _groups(results: Sequence[ValidatedImage]) -> list[list[ValidatedImage]]:
    """Return the largest groups of duplicates, each with the image that is kept first."""
    by_id = {image.id: image for image in results}

    def place(entry: tuple[int, list[int]]) -> tuple[int, str]:
        keeper, others = entry
        # Ids depend on which download was faster.
        return -len(others), by_id[keeper].original_url if keeper in by_id else ""

    largest = sorted(_clusters(results).items(), key=place)[:_MAX_GROUPS]
    return [
        [by_id[image_id] for image_id in (keeper, *others)[:_GROUP_SIZE] if image_id in by_id]
        for keeper, others in largest
    ]


def _sheet(images: Sequence[ValidatedImage], content: _Content, check: str) -> str:
    figures = "".join(_figure(image, content, check) for image in images)
    return f'<div class="sheet">{figures}</div>'


def _figure(image: ValidatedImage, content: _Content, check: str) -> str:
    url = image.original_url
    name = content.files.name(url) or image.filename
    places = Places(name, content.files.file(url), image.page_url, url)
    alt = f"{image.label}: {name}" if image.label else name
    caption = _caption(image, check)
    return html_report.figure(content.thumbnails.get(image.id), caption, alt=alt, places=places, hint=name)


def _caption(image: ValidatedImage, check: str) -> str:
    found = next((found for found in image.findings if found.check == check), None)
    scores = _scores(image)
    if found is not None:
        said = wording.describe(found)
        return f"{said}; label: {image.label}" if check == "relevance" and image.label else said
    if check in scores:
        return f"{check} {scores[check]:.3g}" + (f"; label: {image.label}" if image.label else "")
    return f"{image.width}x{image.height}" if image.width else "size unknown"


def histograms(results: Sequence[ValidatedImage], rules: ValidationRules) -> Iterator[str]:
    """Yield a section with the distribution of each metric, in which flagged images have another color."""
    active = {**rules.active(), **rules.classifiers}
    drawn = []
    for metric in (*_METRICS, *_score_metrics(results, active)):
        # Values of each color: whether the check flagged the image decides, not where its bar is.
        values: dict[bool, list[float]] = {False: [], True: []}
        for image in results:
            value = _scores(image).get(metric.name) if metric.is_score else image.metrics.get(metric.name)
            if isinstance(value, int | float) and math.isfinite(value):
                values[any(found.check == metric.check for found in image.findings)].append(value)
        if any(values.values()):
            check = active.get(metric.check)
            threshold = None if check is None else getattr(check, metric.parameter)
            drawn.append(_histogram(metric, values[False], values[True], threshold))
    if drawn:
        yield f'<h2>Image statistics</h2><div class="columns">{"".join(drawn)}</div>'


def _score_metrics(results: Sequence[ValidatedImage], active: Mapping[str, object]) -> Iterator[_Metric]:
    """Yield the scores of classifiers, each from its lowest to its highest value, its threshold included."""
    for name in _score_names(results):
        side, parameter = (_BELOW, "score_below") if name in _LOW_IS_BAD else (_ABOVE, "score_above")
        threshold = getattr(active.get(name), parameter, None)
        values = [scores[name] for image in results if name in (scores := _scores(image))]
        values += [] if threshold is None else [threshold]
        low, high = min(values), max(values)
        margin = (high - low) / _BINS or 0.01
        heading, unit = _SCORES.get(name, (name, "score"))
        yield _Metric(name, heading, unit, name, parameter, side, low - margin, high + margin, is_score=True)


def _histogram(metric: _Metric, others: Sequence[float], flagged: Sequence[float], threshold: float | None) -> str:
    """Return the histogram of a metric as SVG; flagged images are a part of their bars, in another color."""
    lower, upper = (Counter(_bin(metric, value) for value in values) for values in (flagged, others))
    largest = max((lower + upper).values())
    bars = "".join(_bars(at, lower[at] / largest, upper[at] / largest) for at in range(_BINS))
    line = ""
    if threshold is not None:
        x = 4 * _BINS * (threshold - metric.low) / (metric.high - metric.low)
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="62"/>'
    total = len(flagged) + len(others)
    limit = f"flagged {metric.side} {threshold:g}" if threshold is not None else "no threshold"
    if threshold is not None or flagged:
        limit = f"{len(flagged):,} of {total:,} images {limit}"
    label = f"{metric.heading}, {metric.unit}: distribution over {total:,} images; {limit}"
    return (
        f'<section><h3 class="hist-title">{escape(metric.heading)} <small>{metric.unit}; {limit}</small></h3>'
        f'<svg class="hist" viewBox="0 0 {4 * _BINS} 62" role="img" aria-label="{escape(label, quote=True)}">'
        f"{bars}{line}</svg>"
        f'<div class="ends"><span>{metric.low:.4g}</span><span>{metric.high:.4g}</span></div></section>'
    )


def _bin(metric: _Metric, value: float) -> int:
    """Return the bin of a value; one outside of the range is in the first or the last bin."""
    return min(max(int((value - metric.low) * _BINS / (metric.high - metric.low)), 0), _BINS - 1)


def _bars(at: int, flagged: float, others: float) -> str:
    """Return the bar of a bin: flagged images at the bottom, the others on top; shares of the highest bar."""
    drawn, y = "", 62.0
    for share, kind in ((flagged, ' class="bad"'), (others, "")):
        if share:
            height = max(1.0, 60 * share)
            y -= height
            drawn += f'<rect{kind} x="{4 * at}" y="{y:.1f}" width="3.4" height="{height:.1f}"/>'
    return drawn
