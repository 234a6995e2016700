"""Jobs of all kinds on real workers and services, while faults of many kinds are injected; see `docs/reliability.md`.

    make chaos MINUTES=30 SEED=7
    make chaos ONLY="postgresql:,redis: full" WITHOUT="malformed"

The first phase runs every recipe of jobs without faults, the second one runs them again and again with faults, the
third one lets what is under way end. Then everything is compared, counted and printed; exit code 1 on any violation.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

from chaos import injector, report
from chaos.events import Events
from chaos.faults import broker, database, hosts, jobs, messages, storage, workers
from chaos.faults.catalog import LEASE, SWEEP, Arena, Fault
from chaos.injector import Injector
from chaos.invariants import Checker
from chaos.load import Load
from chaos.recovery import Recovery, percentile
from chaos.report import Outcome
from chaos.resources import Resources
from chaos.services import Broker, Database, Storage, WebServers
from chaos.workers import Workers

from pixcrawler_worker import runtime, settings
from pixcrawler_worker.crawl import storage_audit

#: Importing them adds their faults to the catalog.
CATALOGS = (workers, broker, database, messages, jobs, storage, hosts)
#: Seconds after its lease and a sweep in which a chunk must run again.
_SLACK = 3.0
_COUNTED = "SELECT (SELECT count(*) FROM pixcrawler.chunks WHERE state = 'completed'), (SELECT count(*) FROM images)"


def main() -> int:
    options = _options()
    kinds = injector.chosen(options.only, options.without)
    # Background jobs of a shell inherit that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.chmod(0o755)
    try:
        outcome = _run(folder, kinds, options)
    except KeyboardInterrupt:
        _say(f"interrupted; the logs are in {folder / 'logs'}")
        return 130
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)
    for line in report.lines(outcome):
        _say(line)
    return int(outcome.failed)


def _run(folder: Path, kinds: list[Fault], options: argparse.Namespace) -> Outcome:
    logs, data = folder / "logs", folder / "data"
    for path in (logs, data):
        path.mkdir()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    _say(f"{options.minutes:g} minutes of {len(kinds)} kinds of faults, SEED={seed}; logs in {logs}")
    chance = random.Random(seed)
    with ExitStack() as stack, closing(Events(logs / "events.jsonl")) as events:
        arena, resources = _arena(stack, data, logs, events, chance)
        with arena.workers.running():
            _say("without faults ...")
            arena.load.run_undisturbed()
            checker = Checker(arena.database, events, arena.recovery)
            checker.start()
            resources.start()
            arena.load.start()
            _say("with faults ...")
            dealt = Injector(arena, kinds, per_second=options.per_second, chance=random.Random(seed))
            begun = time.monotonic()
            dealt.start()
            try:
                _watch(arena, checker, dealt, begun, options.minutes * 60)
            finally:
                dealt.stop()
            seconds = time.monotonic() - begun
            _say("waiting for the jobs under way ...")
            arena.load.drain()
            resources.stop()
            time.sleep(2 * SWEEP)
            left_over = arena.workers.left_over()
        checker.stop()
        with arena.database.connect("chaos end") as connection:
            checker.check_all(connection)
            row = connection.execute(_COUNTED.encode()).fetchone()
        assert row is not None
        outcome = _outcome(arena, checker, dealt, resources, seconds)
        outcome.numbers = {"chunks completed": row[0], "images stored": row[1], **outcome.numbers}
        outcome.violations["storage and rows differ"] = _audit(arena, data)
        outcome.violations["processes left over"] = [f"process {pid} has lost its main process" for pid in left_over]
        outcome.violations["deadlocks"] = ["see postgres.log"] * arena.database.deadlocks()
        return outcome


def _arena(stack: ExitStack, data: Path, logs: Path, events: Events, chance: random.Random) -> tuple[Arena, Resources]:
    """Start the services; they are stopped with the stack."""
    store = Storage(data / "storage")
    store.open()
    stack.callback(store.close)
    servers = WebServers(logs / "servers.log")
    stack.callback(servers.close)
    redis_server = Broker(data / "redis", logs)
    redis_server.start()
    stack.callback(redis_server.stop, signal.SIGTERM)
    postgres = Database(data / "services", logs)
    stack.callback(postgres.stop, signal.SIGINT)
    postgres.start_migrated()
    environment = {
        "PIXCRAWLER_DATABASE_URL": postgres.url,
        "PIXCRAWLER_BROKER_URL": redis_server.url,
        "PIXCRAWLER_DATA_DIR": str(data),
        "PIXCRAWLER_STORAGE_URL": store.path.as_uri(),
        "PIXCRAWLER_COMMONS_URL": servers.commons,
        "PIXCRAWLER_OPENVERSE_URL": "http://127.0.0.1:1/",
        "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8",
        "PIXCRAWLER_LEASE_SECONDS": str(LEASE),
        "PIXCRAWLER_SWEEP_SECONDS": str(SWEEP),
        "PIXCRAWLER_FETCH_CONCURRENCY": "8",
        "PIXCRAWLER_DISPATCH_WINDOW": "4",
    }
    ended = threading.Event()
    all_workers = Workers(environment, data, logs, events, ended)
    load = Load(postgres, redis_server, servers, events, random.Random(chance.random()))
    arena = Arena(
        database=postgres,
        broker=redis_server,
        storage=store,
        servers=servers,
        workers=all_workers,
        load=load,
        recovery=Recovery(),
        events=events,
        random=random.Random(chance.random()),
        ended=ended,
    )
    return arena, Resources(all_workers, postgres, redis_server)


def _watch(arena: Arena, checker: Checker, dealt: Injector, begun: float, seconds: float) -> None:
    """Wait for the end of the faults, and say every minute how it goes."""
    said = begun
    while (now := time.monotonic()) < begun + seconds:
        time.sleep(0.2)
        if now - said >= 60:
            said = now
            found = (
                len(checker.found) + len(arena.load.differing) + len(arena.load.not_ended) + len(arena.workers.exits)
            )
            _say(
                f"{(now - begun) / 60:3.0f} min: {dealt.applied.total()} faults, {sum(arena.load.ends.values())} jobs "
                f"ended, {checker.snapshots} snapshots, {found} violations"
            )


def _outcome(arena: Arena, checker: Checker, dealt: Injector, resources: Resources, seconds: float) -> Outcome:
    load = arena.load
    bound = LEASE + SWEEP + _SLACK
    for one in arena.recovery.recovered:
        arena.events.write("recovered", kind=one.fault, chunk=one.chunk, seconds=one.seconds, again=one.again)
    up, down = arena.recovery.times()
    violations = {
        "invariants of a snapshot": checker.found,
        "jobs that ended otherwise than undisturbed": load.differing,
        "jobs that did not end": load.not_ended,
        "mains that ended without being asked": arena.workers.exits,
        "slow recovery": [],
    }
    if (slow := percentile(up, 0.99)) > bound:
        violations["slow recovery"] = [f"p99 is {slow:.1f} s, more than {bound:.0f} s"]
    kinds = {one.title: None for one in injector.chosen("", "")}
    return Outcome(
        seconds=seconds,
        bound=bound,
        faults={
            kind: (dealt.applied[kind], dealt.skipped[kind], dealt.errors[kind])
            for kind in kinds
            if dealt.applied[kind] + dealt.skipped[kind] + dealt.errors[kind]
        },
        violations=dict(violations),
        numbers={
            "jobs compared with an undisturbed run": load.compared.total(),
            "snapshots checked": checker.snapshots,
            "snapshots missed, with the database away or locked": checker.missed,
            "starts of main processes": arena.workers.starts,
        },
        ends=dict(load.ends),
        up=up,
        down=down,
        resources=resources.quarters(),
        log=arena.events.path,
    )


def _audit(arena: Arena, data: Path) -> list[str]:
    """Compare rows with files as an operator does, repairing, and then once more."""
    loaded = settings.load(
        database_url=arena.database.url, data_dir=data, storage_url=arena.storage.path.as_uri(), broker_url=None
    )
    with closing(runtime.connect(loaded)) as opened:
        first = storage_audit.verify(opened, fix=True, grace_period=timedelta(0))
        found = [f"a row without its file: {url}" for url in first.missing if url not in arena.load.removed]
        found += [f"a file of another size than its row says: {url}" for url in first.resized]
        second = storage_audit.verify(opened)
    return [
        *found,
        *(f"a file without a row after the audit: {url}" for url in second.orphaned),
        *(f"a row without its file after the audit: {url}" for url in second.missing),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5, help="of faults")
    parser.add_argument("--seed", type=int, help="of the order of the faults; printed")
    parser.add_argument("--per-second", type=float, default=2.0, help="faults, on average")
    parser.add_argument("--only", default="", help="kinds of faults, by parts of their names")
    parser.add_argument("--without", default="", help="kinds of faults to leave out")
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
