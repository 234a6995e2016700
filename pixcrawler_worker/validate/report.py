"""HTML report on a validation: results, findings, image statistics, the worst images per check, and duplicates."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from pathlib import Path

from pixcrawler_worker import html_report
from pixcrawler_worker.db import job_views, validation_results
from pixcrawler_worker.db.job_views import ValidationView
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.db.validation_results import ValidatedImage
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.domain.checks import Severity, Value
from pixcrawler_worker.errors import UnknownJobError
from pixcrawler_worker.runtime import Runtime
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


_METRICS = (
    _Metric("brightness_p99", "Brightness", "99th percentile", "dark", "p99_below", _BELOW, 0, 1),
    _Metric("brightness_p5", "Brightness", "5th percentile", "light", "p5_above", _ABOVE, 0, 1),
    _Metric("entropy", "Entropy", "bits", "low_information", "entropy_below", _BELOW, 0, 8),
    _Metric("std", "Contrast", "standard deviation", "uniform", "std_below", _BELOW, 0, 128),
    _Metric("sharpness", "Sharpness", "score", "blurry", "score_below", _BELOW, 0, 1),
)


def write_validation_report(runtime: Runtime, job_id: int, path: Path) -> Path:
    """Write the HTML report on a validation job and return its path. Images are embedded.

    Raises:
        PermanentError: when there is no such job, or the file cannot be written.
        TransientError: when database or storage do not respond.
    """
    job = transact(runtime.sessions, lambda session: job_views.job(session, ValidationView, job_id))
    if job is None:
        raise UnknownJobError(VALIDATION_JOBS.name, job_id)
    results = transact(runtime.sessions, lambda session: validation_results.validated_images(session, job_id))
    worst, groups = _worst(results), _groups(results)
    shown = [image for images in (*worst.values(), *groups) for image in images]
    files = {image.id: image.storage_url for image in shown if image.storage_url}
    thumbnails = runtime.run(html_report.thumbnails(runtime, files.items()))
    return html_report.save(path, job.name, _parts(job, results, worst, groups, thumbnails))


def _parts(
    job: ValidationView,
    results: Sequence[ValidatedImage],
    worst: Mapping[str, Sequence[ValidatedImage]],
    groups: Sequence[Sequence[ValidatedImage]],
    thumbnails: Mapping[int, bytes],
) -> Iterator[str]:
    rules = parse(job.validation_rules)
    when = f", {job.completed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if job.completed_at else ""
    yield f"<h1>{escape(job.name)}</h1>"
    yield (
        f'<div class="soft">validation {job.id} of crawl job {job.crawl_job_id}, level {rules.level},'
        f" {escape(job.status)}{when}</div>"
    )
    yield html_report.tiles(
        (
            (f"{job.total_images:,}", "images validated"),
            (f"{job.validated_images:,}", "valid"),
            (f"{job.invalid_images:,}", "invalid"),
            (f"{sum(1 for image in results if image.findings):,}", "with findings"),
            (f"{len(_clusters(results)):,}", "groups of duplicates"),
        )
    )
    if job.error_message:
        yield f"<p>{escape(job.error_message)}</p>"
    yield '<div class="columns">'
    for severity, heading in ((Severity.ERROR, "Errors"), (Severity.WARN, "Warnings"), (Severity.INFO, "Notes")):
        counts = Counter(found.check for image in results for found in image.findings if found.severity is severity)
        yield html_report.bars(heading, counts.most_common(), kind="bad" if severity is Severity.ERROR else "")
    yield html_report.bars(
        "Invalid images by label", Counter(i.label for i in results if not i.valid).most_common(), kind="bad"
    )
    yield html_report.bars(
        "Valid images by label", Counter(image.label for image in results if image.valid).most_common()
    )
    yield "</div>"
    yield from _histograms(results, rules)
    if worst:
        yield '<h2>Flagged images</h2><p class="soft">For each check, those farthest from its threshold come first.</p>'
    totals = Counter(found.check for image in results for found in image.findings)
    for check, images in worst.items():
        yield f"<h3>{escape(check)} <small>{len(images)} of {totals[check]:,}</small></h3>"
        yield _sheet(images, thumbnails, check)
    if groups:
        yield '<h2>Duplicates</h2><p class="soft">The first image of each group is kept.</p>'
        yield from (_sheet(group, thumbnails, "") for group in groups)


def _worst(results: Sequence[ValidatedImage]) -> dict[str, list[ValidatedImage]]:
    """Return the images that exceed the threshold of each check most; errors first, then warnings, then notes."""
    by_check: defaultdict[tuple[Severity, str], list[tuple[float, int, ValidatedImage]]] = defaultdict(list)
    for image in results:
        for found in image.findings:
            if image.keeper_id is None or not found.check.endswith("_duplicate"):
                by_check[found.severity, found.check].append((_excess(found.value, found.threshold), image.id, image))
    order = list(Severity)
    ranked = sorted(by_check.items(), key=lambda entry: (order.index(entry[0][0]), entry[0][1]))
    return {
        check: [image for _, _, image in sorted(images, key=lambda one: (-one[0], one[1]))[:_MAX_WORST]]
        for (_, check), images in ranked
    }


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
    largest = sorted(_clusters(results).items(), key=lambda entry: (-len(entry[1]), entry[0]))[:_MAX_GROUPS]
    return [
        [by_id[image_id] for image_id in (keeper, *others)[:_GROUP_SIZE] if image_id in by_id]
        for keeper, others in largest
    ]


def _sheet(images: Sequence[ValidatedImage], thumbnails: Mapping[int, bytes], check: str) -> str:
    figures = "".join(
        html_report.figure(thumbnails.get(image.id), _caption(image, check), alt=image.filename, hint=image.filename)
        for image in images
    )
    return f'<div class="sheet">{figures}</div>'


def _caption(image: ValidatedImage, check: str) -> str:
    found = next((found for found in image.findings if found.check == check), None)
    if found is None:
        size = f"{image.width}x{image.height}, " if image.width else ""
        return f"{size}{image.filename}"
    threshold = "" if found.threshold is None else f", threshold {_short(found.threshold)}"
    return f"{_short(found.value)}{threshold}"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _histograms(results: Sequence[ValidatedImage], rules: ValidationRules) -> Iterator[str]:
    active = rules.active()
    drawn = []
    for metric in _METRICS:
        values = [image.metrics[metric.name] for image in results if metric.name in image.metrics]
        if values:
            check = active.get(metric.check)
            threshold = None if check is None else getattr(check, metric.parameter)
            drawn.append(_histogram(metric, values, threshold))
    if drawn:
        yield f'<h2>Image statistics</h2><div class="columns">{"".join(drawn)}</div>'


def _histogram(metric: _Metric, values: Sequence[float], threshold: float | None) -> str:
    """Return the histogram of a metric as SVG; values beyond the threshold have another color."""
    step = (metric.high - metric.low) / _BINS
    counts = Counter(min(int((value - metric.low) / step), _BINS - 1) for value in values)
    largest = max(counts.values())
    bars = "".join(_bin(metric, at, counts[at] / largest, threshold) for at in range(_BINS))
    line = ""
    if threshold is not None:
        x = 4 * (threshold - metric.low) / step
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="62"/>'
    limit = "no threshold" if threshold is None else f"flagged {metric.side} {threshold:g}"
    label = f"{metric.heading}, {metric.unit}: distribution over {len(values)} images"
    return (
        f'<section><h3 class="hist-title">{escape(metric.heading)} <small>{metric.unit}, {limit}</small></h3>'
        f'<svg class="hist" viewBox="0 0 {4 * _BINS} 62" role="img" aria-label="{escape(label, quote=True)}">'
        f'{bars}{line}</svg><div class="ends"><span>{metric.low:g}</span><span>{metric.high:g}</span></div></section>'
    )


def _bin(metric: _Metric, at: int, share: float, threshold: float | None) -> str:
    if not share:
        return ""
    step = (metric.high - metric.low) / _BINS
    middle = metric.low + (at + 0.5) * step
    beyond = threshold is not None and (middle < threshold if metric.side == _BELOW else middle > threshold)
    height = max(1.0, 60 * share)
    kind = ' class="bad"' if beyond else ""
    return f'<rect{kind} x="{4 * at}" y="{62 - height:.1f}" width="3.4" height="{height:.1f}"/>'
