import asyncio

from pixcrawler_worker.web.bodies import Bodies


def test_bodies_within_the_budget_do_not_wait() -> None:
    async def work() -> int:
        bodies = Bodies(100)
        with bodies.body() as one, bodies.body() as other:
            await one.take(60)
            await other.take(40)
            return bodies.total

    assert asyncio.run(work()) == 100


def test_above_it_only_the_oldest_goes_on_and_the_others_follow_it() -> None:
    async def work() -> list[str]:
        bodies, done = Bodies(100), list[str]()
        largest = 0

        async def receive(name: str) -> None:
            nonlocal largest
            with bodies.body() as body:
                for _ in range(10):
                    await body.take(10)
                    largest = max(largest, bodies.total)
                    await asyncio.sleep(0)
                done.append(name)

        await asyncio.gather(*(receive(str(number)) for number in range(8)))
        assert bodies.total == 0
        assert largest <= 100 + 100
        return done

    assert len(asyncio.run(work())) == 8


def test_one_body_may_exceed_the_budget_alone() -> None:
    async def work() -> int:
        bodies = Bodies(10)
        with bodies.body() as one:
            for _ in range(5):
                await one.take(10)
            return bodies.total

    assert asyncio.run(work()) == 50


def test_a_body_that_ends_while_it_waits_gives_everything_back() -> None:
    async def work() -> int:
        bodies = Bodies(10)
        with bodies.body() as first:
            await first.take(10)

            async def wait() -> None:
                with bodies.body() as second:
                    await second.take(5)

            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return bodies.total

    assert asyncio.run(work()) == 0
