import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from counted import counting
from inspection import samples
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.inspection.process import File

LIMITS = Limits()
JPEG = samples.variant("jpg")
FACTS = inspect_bytes(JPEG, LIMITS)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_for_end(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def limits_of(pid: int) -> dict[str, str]:
    """The soft limits of a process, in the kernel's words."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {line[:25].strip(): line[25:46].strip() for line in lines}


def environment_of(pid: int) -> set[str]:
    """The names in a process's environment."""
    return {line.partition("=")[0] for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if line}


def children() -> set[int]:
    """The processes that this one has started."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


async def ready_pid(decoder: Decoder) -> int:
    """Return the id of a decoder's process after its first image."""
    await decoder.inspect(JPEG)
    assert decoder.pid
    return decoder.pid


async def stopped_inspection(decoder: Decoder, pid: int) -> asyncio.Task[object]:
    """Return an inspection in a process that is stopped."""
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(decoder.inspect(JPEG))
    await asyncio.sleep(0.05)
    assert not task.done()
    return task


def test_a_decoder_returns_the_facts_of_the_inspector() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            for name in samples.VARIANTS:
                body = samples.variant(name)
                assert await decoder.inspect(body) == inspect_bytes(body, LIMITS)

    asyncio.run(story())


@pytest.mark.parametrize("body", [b"", b"<html>", samples.jpeg_declaring(9000, 9000), JPEG[:-50]])
def test_the_decoder_rejects_with_the_messages_of_the_inspector(body: bytes) -> None:
    async def story() -> RejectedError:
        async with aclosing(Decoder(LIMITS)) as decoder:
            with pytest.raises(RejectedError) as rejected:
                await decoder.inspect(body)
            return rejected.value

    with pytest.raises(RejectedError) as expected:
        inspect_bytes(body, LIMITS)
    rejected = asyncio.run(story())
    assert (rejected.reason, str(rejected)) == (expected.value.reason, str(expected.value))


def test_a_hundred_callers_are_served_in_their_order_and_one_failure_affects_no_other() -> None:
    bodies = [samples.png(number, 7, rows=bytes(7 * (number + 1))) for number in range(1, 101)]
    bodies[40] = b"<html>"
    served = []

    async def inspect(decoder: Decoder, number: int) -> int | Reason:
        try:
            return (await decoder.inspect(bodies[number])).width
        except RejectedError as rejected:
            return rejected.reason
        finally:
            served.append(number)

    async def story() -> list[int | Reason]:
        async with aclosing(Decoder(LIMITS)) as decoder:
            return await asyncio.gather(*(inspect(decoder, number) for number in range(100)))

    widths = asyncio.run(story())

    assert widths == [*range(1, 41), Reason.NOT_AN_IMAGE, *range(42, 101)]
    assert served == list(range(100))


def test_a_file_is_read_by_the_process_itself_and_not_beyond_its_maximum_size(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(JPEG)
    (tmp_path / "empty").touch()

    async def measure(decoder: Decoder, name: str, max_bytes: int) -> bytes | Reason:
        with (tmp_path / name).open("rb") as file:
            try:
                facts, _ = await decoder.measure(File(file.fileno(), max_bytes), strict=False, seconds=5)
            except RejectedError as rejected:
                return rejected.reason
            return facts.sha256

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            assert await measure(decoder, "image", len(JPEG)) == FACTS.sha256
            assert await measure(decoder, "image", len(JPEG) - 1) is Reason.TOO_MANY_BYTES
            assert await measure(decoder, "empty", 10) is Reason.EMPTY
            several = [measure(decoder, "image", 10**6) for _ in range(50)]
            assert set(await asyncio.gather(*several, decoder.inspect(JPEG))) == {FACTS.sha256, FACTS}

    asyncio.run(story())


def test_images_queued_after_one_that_ends_the_process_are_not_rejected() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=1))) as decoder:
            pid = await ready_pid(decoder)
            held = await stopped_inspection(decoder, pid)
            queued = [asyncio.create_task(decoder.inspect(samples.variant("png"))) for _ in range(20)]
            cancelled = asyncio.create_task(decoder.inspect(JPEG))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(RejectedError) as rejected:
                await held
            assert rejected.value.reason is Reason.TIMEOUT
            assert {(await one).format for one in queued} == {"png"}
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert await decoder.inspect(JPEG) == FACTS

    asyncio.run(story())


def test_reading_several_responses_at_once_takes_no_longer() -> None:
    async def story() -> tuple[float, float]:
        async with aclosing(Decoder(LIMITS)) as decoder:
            await ready_pid(decoder)

            async def inspect(at_once: int) -> float:
                begun = time.perf_counter()
                waiting = iter(range(100))

                async def take_turns() -> None:
                    for _ in waiting:
                        await decoder.inspect(JPEG)

                await asyncio.gather(*(take_turns() for _ in range(at_once)))
                return time.perf_counter() - begun

            # In turns, and the best of each: a busy machine can only add to them.
            few, many = zip(*[(await inspect(4), await inspect(32)) for _ in range(4)], strict=True)
            return min(few), min(many)

    few, many = asyncio.run(story())
    assert many < 2 * few, "a pause of 50 ms before each response would take thirty times as long"


def test_a_large_body_is_received_completely() -> None:
    body = JPEG + bytes(20 * 2**20)

    async def story() -> int:
        async with aclosing(Decoder(LIMITS)) as decoder:
            return (await decoder.inspect(body)).file_size

    assert asyncio.run(story()) == len(body)


def test_a_process_that_is_stopped_and_continued_while_it_reads_loses_no_image() -> None:
    body = JPEG + bytes(20 * 2**20)

    async def stop_and_continue(pid: int) -> None:
        while True:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.001)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.002)

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            stopping = asyncio.create_task(stop_and_continue(pid))
            sizes = [(await decoder.inspect(body)).file_size for _ in range(5)]
            stopping.cancel()
            os.kill(pid, signal.SIGCONT)
            assert sizes == [len(body)] * 5
            assert decoder.pid == pid

    asyncio.run(story())


async def neighbors(decoder: Decoder) -> list[asyncio.Task[object]]:
    """Return inspections that wait behind the one that is held."""
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(decoder.inspect(JPEG)) for _ in range(20)]
    await asyncio.sleep(0.05)
    return tasks


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_rejects_one_image_and_the_others_get_a_new_process(crash: signal.Signals) -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            task = await stopped_inspection(decoder, pid)
            others = await neighbors(decoder)
            os.kill(pid, crash)
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.DECODER_DIED
            assert await asyncio.gather(*others) == [FACTS] * 20
            assert decoder.pid != pid
            assert not is_running(pid)

    with counting("decoder_deaths", 1, cause="crash"):
        asyncio.run(story())


def test_a_kill_rejects_no_image() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            task = await stopped_inspection(decoder, pid)
            others = await neighbors(decoder)
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.gather(task, *others) == [FACTS] * 21
            assert not is_running(pid)

    with counting("decoder_deaths", 1, cause="killed"):
        asyncio.run(story())


async def first_image(decoder: Decoder, *, after: int) -> int:
    """Return the id of the process that replaced another one, once it has received an image."""
    while decoder.pid in (after, None):  # noqa: ASYNC110 - processes set no event
        await asyncio.sleep(0.001)
    assert decoder.pid
    while limits_of(decoder.pid)["Max cpu time"] == "unlimited":  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0.001)
    return decoder.pid


def test_an_image_at_which_the_process_is_killed_twice_is_rejected() -> None:
    slow = samples.encoded(samples.scene(400, 300).resize((6000, 4500)), "PNG", compress_level=1)

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            task = asyncio.create_task(decoder.inspect(slow))
            first = await first_image(decoder, after=0)
            os.kill(first, signal.SIGKILL)
            os.kill(await first_image(decoder, after=first), signal.SIGKILL)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.DECODER_DIED
            assert await decoder.inspect(JPEG) == FACTS

    asyncio.run(story())


def test_a_process_that_is_killed_while_it_starts_is_replaced() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            tasks = [asyncio.create_task(decoder.inspect(JPEG)) for _ in range(5)]
            await asyncio.sleep(0.02)
            assert decoder.pid
            os.kill(decoder.pid, signal.SIGKILL)
            assert await asyncio.gather(*tasks) == [FACTS] * 5

    asyncio.run(story())


def test_a_file_is_read_again_from_its_beginning_when_the_process_was_killed(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(JPEG)

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            with (tmp_path / "image").open("rb") as file:
                pid = await ready_pid(decoder)
                os.kill(pid, signal.SIGSTOP)
                task = asyncio.create_task(decoder.measure(File(file.fileno(), 10**6), strict=False, seconds=60))
                await asyncio.sleep(0.05)
                os.lseek(file.fileno(), 0, os.SEEK_END)  # as the process leaves it
                os.kill(pid, signal.SIGKILL)
                facts, _ = await task
                assert facts.sha256 == FACTS.sha256

    asyncio.run(story())


def test_a_process_that_died_between_two_images_rejects_none() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            os.kill(pid, signal.SIGKILL)
            assert wait_for_end(pid)
            assert await decoder.inspect(JPEG) == FACTS

    asyncio.run(story())


def test_a_deadline_ends_the_process_and_rejects_the_image() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=0.3))) as decoder:
            pid = await ready_pid(decoder)
            task = await stopped_inspection(decoder, pid)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.TIMEOUT
            assert await ready_pid(decoder) != pid
        assert not is_running(pid)

    asyncio.run(story())


def test_cpu_time_is_limited_for_every_image_and_exceeding_it_is_a_timeout() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=5))) as decoder:
            pid = await ready_pid(decoder)
            assert 5 <= int(limits_of(pid)["Max cpu time"]) <= 9

            task = await stopped_inspection(decoder, pid)
            os.kill(pid, signal.SIGXCPU)  # What the kernel sends then.
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.TIMEOUT

    asyncio.run(story())


@pytest.mark.parametrize("format_", ["PNG", "AVIF", "HEIC"])
def test_an_image_that_needs_too_much_memory_is_rejected_and_the_process_survives(format_: str) -> None:
    body = {
        "PNG": lambda: samples.encoded(
            samples.scene(32, 32).convert("1").resize((7000, 7000)), "PNG", compress_level=1
        ),
        "AVIF": lambda: samples.avif_declaring(4500, 4500),
        "HEIC": lambda: samples.encoded(Image.new("L", (4500, 4500)), "HEIF", quality=1),
    }[format_]()
    limits = Limits(memory_bytes=200 * 2**20, max_pixels_per_byte=10**9)

    async def story() -> None:
        async with aclosing(Decoder(limits)) as decoder:
            pid = await ready_pid(decoder)
            with pytest.raises(RejectedError) as rejected:
                await decoder.inspect(body)
            # libavif and libheif do not always say that it was memory they lacked.
            assert rejected.value.reason in {Reason.TOO_MANY_PIXELS, Reason.CORRUPT}
            assert format_ != "PNG" or rejected.value.reason is Reason.TOO_MANY_PIXELS
            assert await ready_pid(decoder) == pid

    asyncio.run(story())


def test_a_large_jpeg_takes_little_memory() -> None:
    body = samples.encoded(Image.new("L", (7000, 7000), 128), "JPEG")

    async def story() -> int:
        async with aclosing(Decoder(Limits(memory_bytes=190 * 2**20))) as decoder:
            return (await decoder.inspect(body)).width

    assert asyncio.run(story()) == 7000


def test_what_a_large_image_leaves_goes_back_to_the_system_before_the_next_one() -> None:
    large = samples.encoded(Image.new("RGB", (7000, 6000), (9, 9, 9)), "JPEG", progressive=True)

    async def story() -> tuple[int, int, set[int | None]]:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            begun_with = address_space(pid)
            await decoder.inspect(large)
            await decoder.inspect(JPEG)
            return begun_with, address_space(pid), {pid, decoder.pid}

    begun_with, left, pids = asyncio.run(story())

    assert left - begun_with < 32_000_000
    assert len(pids) == 1  # one that keeps too much starts again in place


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_process_is_replaced_by_one_that_was_started_in_time() -> None:
    body = samples.png(1, 1, rows=b"\0\0")

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            first = await ready_pid(decoder)
            before: set[int] = set()
            opened = 1
            while decoder.pid == first:
                before = children()
                await asyncio.gather(*(decoder.inspect(body) for _ in range(10)))
                opened += 10
            assert 5_000 <= opened <= 20_000
            assert decoder.pid in before, "its start would have kept an image waiting"
            assert first in before
            for _ in range(5):
                await decoder.inspect(body)
            assert wait_for_end(first)

    before = children()
    asyncio.run(story())
    assert children() <= before


def test_the_response_to_a_cancelled_caller_does_not_reach_the_next() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            task = await stopped_inspection(decoder, pid)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            facts = await decoder.inspect(samples.variant("png"))
            assert facts.format == "png"

    asyncio.run(story())


def test_a_decoder_works_in_several_runs_of_its_loop() -> None:
    with asyncio.Runner() as runner:
        decoder = Decoder(LIMITS)
        pids = [runner.run(ready_pid(decoder)) for _ in range(3)]
        runner.run(decoder.aclose())

    assert len(set(pids)) == 1
    assert not is_running(pids[0])


def test_no_process_is_started_before_the_first_image_and_closing_twice_is_allowed() -> None:
    async def story() -> None:
        decoder = Decoder(LIMITS)
        assert decoder.pid is None
        await decoder.aclose()
        pid = await ready_pid(decoder)
        await decoder.aclose()
        await decoder.aclose()
        assert decoder.pid is None
        assert not is_running(pid)

    asyncio.run(story())


def test_a_decoder_that_cannot_start_is_a_transient_error() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(memory_bytes=1))) as decoder:
            for _ in range(2):
                with pytest.raises(TransientError):
                    await decoder.inspect(JPEG)

    asyncio.run(story())


def test_the_process_has_no_secrets_no_core_dumps_no_files_and_limited_memory() -> None:
    async def story() -> tuple[set[str], dict[str, str]]:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            return environment_of(pid), limits_of(pid)

    environment, limits = asyncio.run(story())

    kept = {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONPATH"}
    assert environment <= kept | {
        "MALLOC_ARENA_MAX",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
        "OPENBLAS_NUM_THREADS",
    }
    assert limits["Max core file size"] == limits["Max file size"] == "0"
    # What it begins with, 160 MB, is not counted.
    assert LIMITS.decoding_bytes < int(limits["Max address space"]) < LIMITS.decoding_bytes + 200_000_000


def test_signals_that_stop_the_service_let_the_process_finish() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await ready_pid(decoder)
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            assert await ready_pid(decoder) == pid
            assert os.getpgid(pid) != os.getpgid(0)

    asyncio.run(story())


WORKER = """
import asyncio, sys, time
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits

async def main():
    decoder = Decoder(Limits())
    await decoder.inspect(bytes.fromhex(sys.argv[1]))
    print(decoder.pid, *sorted({name.partition(".")[0] for name in sys.modules}), flush=True)
    time.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_the_process_ends_with_a_worker_that_is_killed(stopped: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with subprocess.Popen([sys.executable, "-c", WORKER, JPEG.hex()], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        pid, *modules = worker.stdout.readline().split()
        if stopped:  # It cannot see its socket close then; the kernel has to end it.
            os.kill(int(pid), signal.SIGSTOP)
        worker.kill()

    assert wait_for_end(int(pid))
    assert not {"PIL", "numpy"} & set(modules), "a worker opens no image and should not pay for Pillow"
