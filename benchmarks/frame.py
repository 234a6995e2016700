"""What all benchmarks share: contenders that take turns, medians with their range, the machine, tables and plots.

A benchmark names its contenders, runs them with `alternate`, and hands the runs to `publish`:

    args = frame.arguments(__doc__, runs=5).parse_args()
    runs = frame.alternate({"worker": crawl, "bare loop": loop}, args.runs)
    frame.publish(frame.Topic("crawl", "images", "worker"), runs, write=args.write)

With `--write`, the section between `<!-- crawl -->` and `<!-- end of crawl -->` of `docs/performance.md`, and the plot
`docs/performance/crawl.svg`, are replaced by what was measured.
"""

import argparse
import html
import importlib.metadata
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

#: Read when NumPy is imported here. The decode process has it, too: without it, a floor is slower than it can be.
_OF_FLOORS = {"OPENBLAS_NUM_THREADS": "1"}
os.environ |= _OF_FLOORS
ROOT = Path(__file__).parent.parent
_PAGE = ROOT / "docs" / "performance.md"
_PLOTS = ROOT / "docs" / "performance"
#: Of a plot, in pixels: the height of a bar, and the width of names, bars and numbers.
_BAR, _LEFT, _WIDTH, _RIGHT = 26, 260, 420, 150
_FONT = 'font-family="sans-serif" font-size="13"'


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender.

    Attributes:
        count: things that were done.
        seconds: that this took.
        cpu: seconds of CPU of all its processes; None where that was not measured.
        peak: bytes of memory of its largest process; None where that was not measured.
    """

    count: float
    seconds: float
    cpu: float | None = None
    peak: int | None = None

    @property
    def rate(self) -> float:
        """Things in a second."""
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Topic:
    """What is compared.

    Attributes:
        name: of the section of the page, and of the plot.
        unit: the things that are counted, in the plural.
        base: the contender that the others are compared with.
        title: above the table and the plot.
        versions: distributions whose versions matter besides this one's, and `name version` of programs.
    """

    name: str
    unit: str
    base: str
    title: str = ""
    versions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of several values."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the spread of values, of which there is at least one."""
        given = sorted(values)
        return cls(statistics.median(given), given[0], given[-1])

    def __str__(self) -> str:
        if self.least == self.most:
            return _figures(self.median)
        return f"{_figures(self.median)} ({_figures(self.least)} to {_figures(self.most)})"


@dataclass(slots=True)
class Usage:
    """What `measured` has seen: filled in at the end of its context."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = field(default=0)

    def run(self, count: float) -> Run:
        """Return the run that did so many things."""
        return Run(count, self.seconds, self.cpu or None, self.peak or None)


def arguments(doc: str | None, *, runs: int) -> argparse.ArgumentParser:
    """Return the parser of a benchmark, with the options that all have."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=runs, help="how often each contender has its turn")
    parser.add_argument("--write", action="store_true", help="write the table and the plot below docs/")
    return parser


def alternate(contenders: Mapping[str, Callable[[], Run]], runs: int) -> dict[str, list[Run]]:
    """Let the contenders take turns, each round beginning with another: what else the machine does meets all of them.

    A contender that is not installed is left out, and so is a program that fails twice in a row.
    """
    found: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(runs):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            if name not in found:
                continue
            try:
                run = _run(contenders[name])
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
                del found[name]
                continue
            found[name].append(run)
            cpu = "" if run.cpu is None else f"   {1000 * run.cpu / run.count:8.3f} ms of CPU each"
            print(f"{turn + 1}/{runs}  {name:32} {run.rate:10.1f}/s{cpu}", flush=True)
    return found


def _run(contender: Callable[[], Run]) -> Run:
    try:
        return contender()
    except subprocess.CalledProcessError as error:
        print(f"tried again: {error}", file=sys.stderr)
        return contender()


@contextmanager
def measured(*roots: int) -> Iterator[Usage]:
    """Measure the time of the context, and CPU and memory of some processes and their descendants meanwhile."""
    usage = Usage()
    before, begun = _cpu(roots), time.perf_counter()
    yield usage
    usage.seconds = time.perf_counter() - begun
    usage.cpu = _cpu(roots) - before
    usage.peak = max((_peak(process) for process in _family(roots)), default=0)


def run_command(command: Sequence[str | Path], count: float, *, cwd: Path | None = None, **env: str) -> Run:
    """Run a program to its end and return what that took, with the processes that it has waited for.

    Raises:
        FileNotFoundError: when it is not installed.
        CalledProcessError: when it fails.
    """
    begun = time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in _OF_FLOORS} | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    if process.returncode:
        sys.stderr.write(said.decode(errors="replace")[-4000:])
        raise subprocess.CalledProcessError(process.returncode, [str(word) for word in command])
    return Run(count, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


@contextmanager
def own_cpu() -> Iterator[Usage]:
    """Measure the time of the context and the CPU of this process and of the children that it waits for meanwhile."""
    usage = Usage()
    before, begun = _own(), time.perf_counter()
    yield usage
    usage.seconds = time.perf_counter() - begun
    usage.cpu = _own() - before


def peer(environment: str, program: str = "python") -> Path:
    """Return a program of the environment of a peer, as `make bench-peers` makes them.

    Raises:
        FileNotFoundError: when there is none.
    """
    path = ROOT / f".venv-bench-{environment}" / "bin" / program
    if not path.exists():
        raise FileNotFoundError(f"`make bench-peers` has not made {path.parent.parent.name}")
    return path


def machine(versions: Sequence[str] = ()) -> str:
    """Return one line about the machine and what runs on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = psutil.virtual_memory().total / 2**30
    known = [name if " " in name else f"{name} {importlib.metadata.version(name)}" for name in versions]
    return ", ".join(
        [
            f"{os.cpu_count()} cores of {model}",
            f"{memory:.0f} GiB",
            f"{platform.system()} {platform.release()}",
            f"Python {platform.python_version()}",
            *known,
        ]
    )


def ratios(runs: Mapping[str, Sequence[Run]], name: str, base: str) -> Spread:
    """Return the rates of one contender divided by those of another, round by round."""
    return Spread.of(mine.rate / other.rate for mine, other in zip(runs[name], runs[base], strict=True))


def table(topic: Topic, runs: Mapping[str, Sequence[Run]]) -> str:
    """Return a Markdown table: the median of each contender, with the least and the greatest of its runs."""
    has_cpu = any(run.cpu for of in runs.values() for run in of)
    has_peak = any(run.peak for of in runs.values() for run in of)
    head = ["", f"{topic.unit} per second", *(["CPU each, ms"] if has_cpu else [])]
    head += [*(["largest process, MB"] if has_peak else []), f"times {topic.base}"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, of in runs.items():
        line = [name, str(Spread.of(run.rate for run in of))]
        if has_cpu:
            line.append(_spread(1000 * run.cpu / run.count for run in of if run.cpu))
        if has_peak:
            line.append(_spread(run.peak / 1e6 for run in of if run.peak))
        lines.append([*line, str(ratios(runs, name, topic.base)) if topic.base in runs else "-"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(topic: Topic, runs: Mapping[str, Sequence[Run]]) -> str:
    """Return an SVG: a bar for the median of each contender, and a line from its least to its greatest rate."""
    spreads = {name: Spread.of(run.rate for run in of) for name, of in runs.items()}
    scale = _WIDTH / max(spread.most for spread in spreads.values())
    width, height = _LEFT + _WIDTH + _RIGHT, 50 + _BAR * len(spreads)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {_FONT}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-size="15">{html.escape(topic.title or topic.name)}: {topic.unit} per second</text>',
    ]
    for at, (name, spread) in enumerate(spreads.items()):
        y = 42 + at * _BAR
        color = "#1f6feb" if name == topic.base else "#9aa7b5"
        end, least, most = (_LEFT + value * scale for value in (spread.median, spread.least, spread.most))
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR - 8}" fill="{color}"/>',
            f'<path d="M{least:.1f} {y + 9}H{most:.1f}" stroke="black" stroke-width="2"/>',
            f'<text x="{max(end, most) + 8:.1f}" y="{y + 14}">{_figures(spread.median)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def publish(topic: Topic, runs: Mapping[str, Sequence[Run]], *, write: bool, notes: Sequence[str] = ()) -> None:
    """Print what was measured, and write it into the page and the plot if that is wanted.

    Args:
        topic: what is compared.
        runs: of each contender, as many of each.
        write: whether to write; the page needs the two comments that the module describes.
        notes: further lines, for figures that are not rates.
    """
    command = shlex.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])
    rounds = max(map(len, runs.values()))
    source = f"`{command.replace(' --write', '')}`, {rounds} rounds, medians with the least and the greatest"
    text = "\n\n".join([table(topic, runs), *notes, f"{source}; {machine(['pixcrawler-worker', *topic.versions])}."])
    print(f"\n{text}")
    if not write:
        return
    _PLOTS.mkdir(exist_ok=True)
    (_PLOTS / f"{topic.name}.svg").write_text(plot(topic, runs), encoding="utf-8")
    begin, end = f"<!-- {topic.name} -->", f"<!-- end of {topic.name} -->"
    before, opening, rest = _PAGE.read_text(encoding="utf-8").partition(begin)
    _, closing, after = rest.partition(end)
    if not opening or not closing:
        raise SystemExit(f"{_PAGE} needs the lines {begin} and {end}")
    image = f"![{topic.title or topic.name}](performance/{topic.name}.svg)"
    _PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{image}\n\n{end}{after}", encoding="utf-8")


def _spread(values: Iterable[float]) -> str:
    given = list(values)
    return str(Spread.of(given)) if given else "-"


def _figures(value: float) -> str:
    """Return a number with three significant figures, and never with an exponent."""
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _family(roots: Sequence[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for root in roots:
        try:
            process = psutil.Process(root)
            found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def _cpu(roots: Sequence[int]) -> float:
    """Return the seconds of CPU that processes and their descendants have had, with those that have ended."""
    seconds = 0.0
    for process in _family(roots):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _peak(process: psutil.Process) -> int:
    """Return the bytes of memory that a process has had at most: no other one's pages, unlike in the sum of all."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    lines = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(line.split()[1]) * 1024 for line in lines), 0)


def _own() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
