"""Running one chunk: judge a range of images, or compare all images of the job with each other."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixcrawler_worker.db import images, verdicts
from pixcrawler_worker.db.ledger import jobs
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.db.verdicts import Amendment, Listed, Verdict
from pixcrawler_worker.domain import planning
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import RejectedError
from pixcrawler_worker.domain.verdicts import Check, Finding, Metrics, Mode, Subject, is_valid, judge
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection.guard import File
from pixcrawler_worker.jobs.kind import Report
from pixcrawler_worker.jobs.limits import Limits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage import FileMissingError
from pixcrawler_worker.validate import classifiers, duplicates, planner
from pixcrawler_worker.validate.classifiers import Classifier
from pixcrawler_worker.validate.rules import (
    Decode,
    ExactDuplicate,
    FileSize,
    LowInformation,
    NearDuplicate,
    OddSize,
    Uniform,
    ValidationRules,
)

#: Which pipeline made the hashes of pictures that were measured; `images.HASH_VERSION` made those that were inspected.
_MEASURED_HASHES = 2
#: Files that are read while others are decoded.
_READS = 16
#: What `decode` says of files that are not there.
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ValidationWork:
    """A claimed chunk with its job's rules; `listed` is empty where images are to be compared."""

    claim: Claim
    crawl_job_id: int
    rules: ValidationRules
    label: str
    listed: Sequence[Listed]

    @property
    def compares(self) -> bool:
        """Whether the chunk compares all images of the job."""
        return self.claim.payload.get("step") == planner.COMPARE


@dataclass(frozen=True, slots=True)
class Validated:
    """What a chunk brings.

    Attributes:
        verdicts: on the images that it judged.
        measured: what was measured of images that nobody had measured before.
        amendments: what comparing all images adds to verdicts.
        left: the first image that there was no time for; None when there was time for all.
    """

    verdicts: Sequence[Verdict] = ()
    measured: Sequence[tuple[Listed, ImageFacts]] = ()
    amendments: Sequence[Amendment] = ()
    left: int | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What reading an image's file told."""

    sha256: bytes | None = None
    facts: ImageFacts | None = None
    metrics: Metrics | None = None
    broken: str | None = None
    body: bytes = b""


def prepare(runtime: Runtime, session: Session, claim: Claim) -> ValidationWork:
    """Read the rules, and the images of the chunk as their rows have them."""
    del runtime
    request, rules = planner.rules_of(session, claim.job.id)
    payload = claim.payload
    listed: list[Listed] = []
    if "first" in payload:
        listed = verdicts.listed(
            session,
            request.crawl_job_id,
            first=payload["first"],
            last=payload["last"],
            threshold=payload.get("threshold"),
        )
    return ValidationWork(claim, request.crawl_job_id, rules, planning.only_label(request.keywords), listed)


async def work(runtime: Runtime, work: ValidationWork, limits: Limits) -> Validated:
    """Validate the chunk's images, or compare all images of the job.

    Images for which `limits.chunk_budget` does not last are left to another chunk.
    """
    if work.compares:
        return await _compare_all(runtime, work)
    return await _validate_all(runtime, work, limits.chunk_budget.total_seconds())


async def _validate_all(runtime: Runtime, work: ValidationWork, seconds: float) -> Validated:
    """Judge every image of the range, reading some while another one is decoded.

    Raises:
        TransientError, PermanentError: from the storage, or when no decoder can be started.
    """
    bench = _bench(runtime, work.rules)
    judged: dict[int, Verdict] = {}
    measured: list[tuple[Listed, ImageFacts]] = []
    waiting, taken = iter(work.listed), itertools.count()
    deadline = time.monotonic() + seconds

    async def take_turns() -> None:
        while (next(taken) < _READS or time.monotonic() < deadline) and (image := next(waiting, None)):
            look = await _look(runtime, bench, image)
            judged[image.id] = _verdict(bench, image, look, await _scores(runtime, bench, look))
            if image.facts is None and look.facts is not None:
                measured.append((image, look.facts))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_READS):
                group.create_task(take_turns())
    except ExceptionGroup as troubles:
        # Reads under way meet the same trouble at the same time: one of them tells it.
        raise troubles.exceptions[0] from None
    left = next(waiting, None)
    done = [judged[image.id] for image in work.listed if image.id in judged]
    return Validated(done, measured, left=None if left is None else left.id)


@dataclass(frozen=True, slots=True)
class _Bench:
    """The rules, made ready for one image after the other."""

    checks: Sequence[Check]
    mode: Mode
    reads_pixels: bool
    strict: bool
    most_bytes: int
    seconds: float
    classifiers: Mapping[str, Classifier]


def _bench(runtime: Runtime, rules: ValidationRules) -> _Bench:
    active = rules.active()
    size, decode = active.get("file_size", FileSize()), active.get("decode", Decode())
    assert isinstance(size, FileSize)
    assert isinstance(decode, Decode)
    return _Bench(
        checks=rules.compiled(),
        mode=rules.counts,
        reads_pixels=rules.reads_pixels,
        strict="strict_jpeg" in active,
        most_bytes=max(size.max_bytes, runtime.settings.max_image_bytes),
        seconds=decode.timeout_s,
        classifiers=classifiers.load(rules.classifiers),
    )


async def _look(runtime: Runtime, bench: _Bench, image: Listed) -> _Look:
    """Read an image's file and open it, as far as the rules need that."""
    if image.facts is not None and not bench.reads_pixels:
        return _Look(facts=image.facts)
    try:
        key = _key(runtime, image)
        if bench.reads_pixels and not bench.classifiers:
            with runtime.storage.opened(key) as file:
                if file is not None:
                    picture = File(file.fileno(), bench.most_bytes)
                    facts, metrics = await runtime.decoder.measure(picture, strict=bench.strict, seconds=bench.seconds)
                    return _Look(facts.sha256, facts, metrics)
        body = await runtime.storage.get(key, most=bench.most_bytes)
        if bench.reads_pixels:
            facts, metrics = await runtime.decoder.measure(body, strict=bench.strict, seconds=bench.seconds)
            return _Look(facts.sha256, facts, metrics, body=body)
        facts = await runtime.decoder.inspect(body)
        return _Look(facts.sha256, facts)
    except FileMissingError:
        return _Look(broken=_MISSING)
    except RejectedError as error:
        return _Look(await _digest(runtime, bench, image), broken=error.reason)


async def _digest(runtime: Runtime, bench: _Bench, image: Listed) -> bytes | None:
    """Return the digest of a file that cannot be opened: it may still be what the crawl stored, or not."""
    try:
        return hashlib.sha256(await runtime.storage.get(_key(runtime, image), most=bench.most_bytes)).digest()
    except (FileMissingError, RejectedError):
        return None


def _key(runtime: Runtime, image: Listed) -> str:
    try:
        return runtime.storage.key(image.storage_url or "")
    except PermanentError as error:
        # Its row names no file, or one that lies where this worker cannot reach.
        raise FileMissingError(str(error)) from error


async def _scores(runtime: Runtime, bench: _Bench, look: _Look) -> Mapping[str, float | str]:
    if not bench.classifiers or look.facts is None:
        return {}
    try:
        picture = await runtime.decoder.thumbnail(look.body, side=classifiers.SIDE)
    except RejectedError as error:
        return dict.fromkeys(bench.classifiers, f"failed: {error}")
    return {name: await asyncio.to_thread(classifiers.score, one, picture) for name, one in bench.classifiers.items()}


def _verdict(bench: _Bench, image: Listed, look: _Look, scores: Mapping[str, float | str]) -> Verdict:
    subject = Subject(
        filename=image.filename,
        source_url=image.original_url,
        credit=image.credit,
        recorded_sha256=image.facts.sha256 if image.facts else None,
        sha256=look.sha256,
        facts=look.facts,
        broken=look.broken,
        metrics=look.metrics,
        scores=scores,
    )
    found = judge(subject, bench.checks)
    return Verdict(
        image_id=image.id,
        valid=is_valid(found, bench.mode),
        findings=found,
        sha256=look.sha256,
        facts=look.facts,
        metrics=look.metrics,
    )


async def _compare_all(runtime: Runtime, work: ValidationWork) -> Validated:
    active = work.rules.active()
    plain, flat = active.get("low_information", LowInformation()), active.get("uniform", Uniform())
    assert isinstance(plain, LowInformation)
    assert isinstance(flat, Uniform)

    def read(session: Session) -> NDArray[np.void]:
        return verdicts.compared(
            session, work.claim.job.id, entropy_below=plain.entropy_below, std_below=flat.std_below
        )

    def compare() -> Validated:
        return Validated(amendments=list(_amendments(transact(runtime.sessions, read), work.rules)))

    # In a thread of its own: seconds of arithmetic, while the heart has to beat.
    return await asyncio.to_thread(compare)


def _amendments(rows: NDArray[np.void], rules: ValidationRules) -> Iterator[Amendment]:
    """Yield what the checks over all images add to the verdicts on some of them."""
    active = rules.active()
    image_id, pixels = rows["image_id"].astype(np.int64), rows["pixels"].astype(np.int64)
    order = duplicates.best_first(rows["valid"], pixels, rows["file_size"].astype(np.int64), image_id)
    found: defaultdict[int, list[Finding]] = defaultdict(list)
    keepers: dict[int, int] = {}
    if isinstance(check := active.get("odd_size"), OddSize):
        for at, size, bound in _odd_sizes(np.sqrt(pixels), check):
            found[at].append(Finding("odd_size", check.severity, size, bound))
    same: dict[int, int] = {}
    if isinstance(exact := active.get("exact_duplicate"), ExactDuplicate):
        same = duplicates.exact(rows["sha256"], order)
        for at, keeper in same.items():
            found[at].append(Finding("exact_duplicate", exact.severity, int(image_id[keeper]), None))
            keepers[at] = keeper
    if isinstance(near := active.get("near_duplicate"), NearDuplicate):
        # What is the same is like it, too: it is found already.
        left_out = rows["plain"].astype(bool)
        left_out[list(same)] = True
        alike = duplicates.near(
            rows["phash"].astype(np.int64).view(np.uint64),
            rows["dhash"].astype(np.int64).view(np.uint64),
            order[~left_out[order]],
            max_distance=near.max_distance,
            confirm_distance=near.confirm_distance,
        )
        for at, keeper in alike.items():
            found[at].append(Finding("near_duplicate", near.severity, int(image_id[keeper]), near.max_distance))
            keepers[at] = keeper
        keepers = {at: alike.get(keeper, keeper) for at, keeper in keepers.items()}
    for at, findings in sorted(found.items()):
        keeper_id = int(image_id[keepers[at]]) if at in keepers else None
        yield Amendment(int(image_id[at]), findings, not is_valid(findings, rules.counts), keeper_id)


def _odd_sizes(sizes: NDArray[np.float64], check: OddSize) -> Iterator[tuple[int, float, float]]:
    """Yield positions, sizes and the bound that each is beyond: Tukey's fences around sqrt(width x height)."""
    if len(sizes) < check.min_images:
        return
    low, high = np.percentile(sizes, (25, 75))
    reach = check.iqr_factor * (high - low)
    for beyond, bound in ((sizes < low - reach, low - reach), (sizes > high + reach, high + reach)):
        for at in np.flatnonzero(beyond):
            yield int(at), round(float(sizes[at]), 1), round(float(bound), 1)


def write(session: Session, work: ValidationWork, judged: Validated) -> Report:
    """Write the results; return the counts of the chunk."""
    job_id = work.claim.job.id
    found = Counter(finding.check for verdict in judged.verdicts for finding in verdict.findings)
    found.update(finding.check for amendment in judged.amendments for finding in amendment.findings)
    valid = sum(verdict.valid for verdict in judged.verdicts)
    invalid = len(judged.verdicts) - valid
    verdicts.insert(session, job_id, judged.verdicts)
    version = _MEASURED_HASHES if work.rules.reads_pixels else images.HASH_VERSION
    verdicts.record_facts(session, work.crawl_job_id, judged.measured, hash_version=version, label=work.label)
    if judged.left is not None:
        jobs.lock(session, work.claim.job)
        rest = {"first": judged.left, "images": len(work.listed) - len(judged.verdicts)}
        jobs.add_chunks(session, work.claim.job, [work.claim.payload | rest])
    fallen = verdicts.amend(session, job_id, judged.amendments)
    return Report(
        result={"counts": dict(found), "images": len(judged.verdicts)},
        gains={"validated_images": valid - fallen, "invalid_images": invalid + fallen},
    )
