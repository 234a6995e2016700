import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from inspection import pictures
from PIL import Image

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import TransientError
from pixcrawler_worker.inspection.decoder import Decoder, File
from pixcrawler_worker.inspection.inspector import inspect_bytes
from pixcrawler_worker.inspection.limits import Limits

LIMITS = Limits()
PICTURE = pictures.variant("jpg")
FACTS = inspect_bytes(PICTURE, LIMITS)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
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


async def pid_at_work(decoder: Decoder) -> int:
    """The process of a decoder that has opened its first image."""
    await decoder.inspect(PICTURE)
    assert decoder.pid
    return decoder.pid


async def hold_up(decoder: Decoder, pid: int) -> asyncio.Task[object]:
    """An inspection that a process has begun and cannot go on with."""
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(decoder.inspect(PICTURE))
    await asyncio.sleep(0.05)
    assert not task.done()
    return task


def test_a_decoder_tells_the_facts_that_the_bytes_tell() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            for name in pictures.VARIANTS:
                body = pictures.variant(name)
                assert await decoder.inspect(body) == inspect_bytes(body, LIMITS)

    asyncio.run(story())


@pytest.mark.parametrize("body", [b"", b"<html>", pictures.jpeg_declaring(9000, 9000), PICTURE[:-50]])
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
    bodies = [pictures.png(number, 7, rows=bytes(7 * (number + 1))) for number in range(1, 101)]
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


def test_a_file_is_read_by_the_process_itself_and_not_beyond_what_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(PICTURE)
    (tmp_path / "empty").touch()

    async def measure(decoder: Decoder, name: str, most: int) -> bytes | Reason:
        with (tmp_path / name).open("rb") as file:
            try:
                facts, _ = await decoder.measure(File(file.fileno(), most), strict=False, seconds=5)
            except RejectedError as rejected:
                return rejected.reason
            return facts.sha256

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            assert await measure(decoder, "picture", len(PICTURE)) == FACTS.sha256
            assert await measure(decoder, "picture", len(PICTURE) - 1) is Reason.TOO_MANY_BYTES
            assert await measure(decoder, "empty", 10) is Reason.EMPTY
            several = [measure(decoder, "picture", 10**6) for _ in range(50)]
            assert set(await asyncio.gather(*several, decoder.inspect(PICTURE))) == {FACTS.sha256, FACTS}

    asyncio.run(story())


def test_what_one_image_does_to_the_process_costs_those_behind_it_nothing() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=1))) as decoder:
            pid = await pid_at_work(decoder)
            held = await hold_up(decoder, pid)
            behind = [asyncio.create_task(decoder.inspect(pictures.variant("png"))) for _ in range(20)]
            given_up = asyncio.create_task(decoder.inspect(PICTURE))
            await asyncio.sleep(0.05)
            given_up.cancel()
            with pytest.raises(RejectedError) as rejected:
                await held
            assert rejected.value.reason is Reason.TIMEOUT
            assert {(await one).format for one in behind} == {"png"}
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await decoder.inspect(PICTURE) == FACTS

    asyncio.run(story())


def test_being_woken_for_several_answers_at_once_takes_no_longer() -> None:
    async def story() -> tuple[float, float]:
        async with aclosing(Decoder(LIMITS)) as decoder:
            await pid_at_work(decoder)

            async def inspect(at_once: int) -> float:
                begun = time.perf_counter()
                waiting = iter(range(300))

                async def take_turns() -> None:
                    for _ in waiting:
                        await decoder.inspect(PICTURE)

                await asyncio.gather(*(take_turns() for _ in range(at_once)))
                return time.perf_counter() - begun

            return await inspect(4), await inspect(32)

    few, many = asyncio.run(story())
    assert many < 2 * few, "a rest of 50 ms before each answer would take thirty times as long"


def test_a_large_body_passes_through_whole() -> None:
    body = PICTURE + bytes(20 * 2**20)

    async def story() -> int:
        async with aclosing(Decoder(LIMITS)) as decoder:
            return (await decoder.inspect(body)).file_size

    assert asyncio.run(story()) == len(body)


def test_a_process_that_is_stopped_and_continued_while_it_reads_loses_no_image() -> None:
    body = PICTURE + bytes(20 * 2**20)

    async def stop_and_continue(pid: int) -> None:
        while True:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.001)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.002)

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await pid_at_work(decoder)
            stopping = asyncio.create_task(stop_and_continue(pid))
            sizes = [(await decoder.inspect(body)).file_size for _ in range(5)]
            stopping.cancel()
            os.kill(pid, signal.SIGCONT)
            assert sizes == [len(body)] * 5
            assert decoder.pid == pid

    asyncio.run(story())


def test_a_crash_costs_one_image_and_the_next_finds_a_new_process() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await pid_at_work(decoder)
            task = await hold_up(decoder, pid)
            neighbor = asyncio.create_task(decoder.inspect(PICTURE))
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.DECODER_DIED
            assert await neighbor == FACTS
            assert decoder.pid != pid
            assert not is_running(pid)

    asyncio.run(story())


def test_a_process_that_died_between_two_images_costs_none() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await pid_at_work(decoder)
            os.kill(pid, signal.SIGKILL)
            assert wait_for_end(pid)
            assert await decoder.inspect(PICTURE) == FACTS

    asyncio.run(story())


def test_an_image_past_its_deadline_is_given_up_with_its_process() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=0.3))) as decoder:
            pid = await pid_at_work(decoder)
            task = await hold_up(decoder, pid)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.TIMEOUT
            assert await pid_at_work(decoder) != pid
        assert not is_running(pid)

    asyncio.run(story())


def test_cpu_time_is_bounded_for_every_image_and_running_out_of_it_is_a_timeout() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(seconds=5))) as decoder:
            pid = await pid_at_work(decoder)
            assert 5 <= int(limits_of(pid)["Max cpu time"]) <= 9

            task = await hold_up(decoder, pid)
            os.kill(pid, signal.SIGXCPU)  # What the kernel sends then.
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(RejectedError) as rejected:
                await task
            assert rejected.value.reason is Reason.TIMEOUT

    asyncio.run(story())


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "AVIF"])
def test_an_image_that_needs_more_memory_than_there_is_is_rejected_by_a_process_that_lives_on(format_: str) -> None:
    body = {
        "PNG": pictures.encoded(pictures.scene(32, 32).convert("1").resize((7000, 7000)), "PNG", compress_level=1),
        "WEBP": pictures.webp_of_one_color(7000, 7000),
        "AVIF": pictures.avif_declaring(7000, 7000),
    }[format_]
    limits = Limits(memory_bytes=200 * 2**20, max_pixels_per_byte=10**9)

    async def story() -> None:
        async with aclosing(Decoder(limits)) as decoder:
            pid = await pid_at_work(decoder)
            with pytest.raises(RejectedError) as rejected:
                await decoder.inspect(body)
            # libwebp and libavif do not always say that it was memory they lacked.
            assert rejected.value.reason in {Reason.TOO_MANY_PIXELS, Reason.CORRUPT}
            assert format_ != "PNG" or rejected.value.reason is Reason.TOO_MANY_PIXELS
            assert await pid_at_work(decoder) == pid

    asyncio.run(story())


def test_a_large_jpeg_takes_little_memory() -> None:
    body = pictures.encoded(Image.new("L", (7000, 7000), 128), "JPEG")

    async def story() -> int:
        async with aclosing(Decoder(Limits(memory_bytes=150 * 2**20))) as decoder:
            return (await decoder.inspect(body)).width

    assert asyncio.run(story()) == 7000


def test_a_process_is_renewed_by_one_that_was_started_in_time_and_ends_then() -> None:
    body = pictures.png(1, 1, rows=b"\0\0")

    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            first = await pid_at_work(decoder)
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


def test_a_caller_who_gives_up_leaves_no_answer_to_the_next() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await pid_at_work(decoder)
            task = await hold_up(decoder, pid)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            facts = await decoder.inspect(pictures.variant("png"))
            assert facts.format == "png"

    asyncio.run(story())


def test_a_decoder_works_through_several_runs_of_its_loop() -> None:
    with asyncio.Runner() as runner:
        decoder = Decoder(LIMITS)
        pids = [runner.run(pid_at_work(decoder)) for _ in range(3)]
        runner.run(decoder.aclose())

    assert len(set(pids)) == 1
    assert not is_running(pids[0])


def test_nothing_is_started_before_the_first_image_and_closing_twice_is_once() -> None:
    async def story() -> None:
        decoder = Decoder(LIMITS)
        assert decoder.pid is None
        await decoder.aclose()
        pid = await pid_at_work(decoder)
        await decoder.aclose()
        await decoder.aclose()
        assert decoder.pid is None
        assert not is_running(pid)

    asyncio.run(story())


def test_a_decoder_that_cannot_start_is_no_image_s_fault() -> None:
    async def story() -> None:
        async with aclosing(Decoder(Limits(memory_bytes=1))) as decoder:
            for _ in range(2):
                with pytest.raises(TransientError):
                    await decoder.inspect(PICTURE)

    asyncio.run(story())


def test_the_process_gets_no_secret_no_core_no_file_and_little_memory() -> None:
    async def story() -> tuple[set[str], dict[str, str]]:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await pid_at_work(decoder)
            return environment_of(pid), limits_of(pid)

    environment, limits = asyncio.run(story())

    kept = {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONPATH"}
    assert environment <= kept | {"OPENBLAS_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    assert limits["Max core file size"] == limits["Max file size"] == "0"
    assert limits["Max address space"] == str(LIMITS.memory_bytes)


def test_a_stop_meant_for_the_whole_service_lets_the_process_finish() -> None:
    async def story() -> None:
        async with aclosing(Decoder(LIMITS)) as decoder:
            pid = await pid_at_work(decoder)
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            assert await pid_at_work(decoder) == pid
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
def test_the_process_dies_with_a_worker_that_is_killed(stopped: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with subprocess.Popen([sys.executable, "-c", WORKER, PICTURE.hex()], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        pid, *modules = worker.stdout.readline().split()
        if stopped:  # It cannot see its socket close then; the kernel has to end it.
            os.kill(int(pid), signal.SIGSTOP)
        worker.kill()

    assert wait_for_end(int(pid))
    assert not {"PIL", "numpy"} & set(modules), "a worker opens no image and should not pay for Pillow"
