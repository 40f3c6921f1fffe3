"""What the server is made of: queues, events, background tasks, timers and its task group."""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from engineio.packet import MESSAGE, Packet

from anyio_sio_pg.server.outgoing import Outgoing
from anyio_sio_pg.server.primitives import Event, Queue
from anyio_sio_pg.server.tasks import EndedError, ServerTasks
from anyio_sio_pg.server.timetable import Timetable
from cancelling import MANY, cancel_at
from harness import eventually

pytestmark = pytest.mark.anyio

logger = logging.getLogger("test_server_parts")


@asynccontextmanager
async def started(function: Callable[..., Awaitable[Any]], *args: Any) -> AsyncIterator[None]:
    """Run something beside the block, to its first wait; it ends with the block."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(function, *args)
            await anyio.wait_all_tasks_blocked()
            yield
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()


async def inside(
    scope: anyio.CancelScope, function: Callable[..., Awaitable[Any]], *args: Any
) -> None:
    with scope:
        await function(*args)


# events


async def test_an_event_wakes_all_that_wait_even_when_it_is_cleared_at_once() -> None:
    event = Event()
    woken: list[bool] = []

    async def wait() -> None:
        woken.append(await event.wait())

    async with started(wait), started(wait):
        assert not event.is_set()
        event.set()
        assert event.is_set()
        event.clear()
        assert not event.is_set()
        await anyio.wait_all_tasks_blocked()
        assert woken == [True, True]
    async with started(wait):
        assert woken == [True, True]
        event.set()
        await anyio.wait_all_tasks_blocked()
        assert woken == [True, True, True]
    assert await event.wait()
    event.set()
    event.clear()
    event.clear()
    assert not event.is_set()


async def test_an_events_waiters_can_be_cancelled() -> None:
    event = Event()
    assert await cancel_at(1, event.wait)
    event.set()
    assert await event.wait()


# queues


async def test_a_queue_is_first_in_first_out() -> None:
    items: Queue[int] = Queue()
    assert items.empty()
    assert not items.full()
    for number in range(5):
        await items.put(number)
    items.put_nowait(5)
    assert items.qsize() == 6
    assert [await items.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert items.get_nowait() == 5
    with pytest.raises(queue.Empty):
        items.get_nowait()


async def test_a_full_queue_makes_its_putters_wait() -> None:
    items: Queue[str] = Queue(2)
    items.put_nowait("a")
    assert not items.full()
    items.put_nowait("b")
    assert items.full()
    with pytest.raises(queue.Full):
        items.put_nowait("c")
    async with started(items.put, "c"), started(items.put, "d"):
        assert items.qsize() == 2
        assert items.get_nowait() == "a"
        await anyio.wait_all_tasks_blocked()
        assert items.qsize() == 2
        assert [items.get_nowait(), await items.get()] == ["b", "c"]
        await anyio.wait_all_tasks_blocked()
        assert items.get_nowait() == "d"


async def test_a_queue_is_joined_once_every_item_is_done() -> None:
    items: Queue[int] = Queue()
    joined = anyio.Event()

    async def join() -> None:
        await items.join()
        joined.set()

    await items.join()
    items.put_nowait(1)
    items.put_nowait(2)
    async with started(join):
        items.get_nowait()
        items.get_nowait()
        items.task_done()
        await anyio.wait_all_tasks_blocked()
        assert not joined.is_set()
        items.task_done()
        await anyio.wait_all_tasks_blocked()
        assert joined.is_set()
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


@pytest.mark.parametrize("turn_has_come", [False, True])
async def test_a_getter_that_is_cancelled_takes_no_item_along(turn_has_come: bool) -> None:
    items: Queue[str] = Queue()
    got: list[str] = []

    async def get() -> None:
        got.append(await items.get())

    first = anyio.CancelScope()
    async with started(inside, first, get), started(get):
        if turn_has_come:
            items.put_nowait("item")
            first.cancel()
        else:
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            items.put_nowait("item")
    assert got == ["item"]


@pytest.mark.parametrize("turn_has_come", [False, True])
async def test_a_putter_that_is_cancelled_leaves_its_room_to_the_next(
    turn_has_come: bool,
) -> None:
    items: Queue[str] = Queue(1)
    items.put_nowait("old")
    first = anyio.CancelScope()
    async with started(inside, first, items.put, "first"), started(items.put, "second"):
        if turn_has_come:
            items.get_nowait()
            first.cancel()
        else:
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            items.get_nowait()
    # once its turn has come, it may be too late to cancel it
    assert items.get_nowait() in (["first", "second"] if turn_has_come else ["second"])
    assert items.empty()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_turn_that_asyncio_cancels_goes_to_the_next() -> None:
    items: Queue[str] = Queue(1)
    getters = [asyncio.create_task(items.get()) for _ in range(2)]
    await anyio.wait_all_tasks_blocked()
    items.put_nowait("one")
    getters[0].cancel()
    assert await asyncio.wait_for(getters[1], 5) == "one"
    assert getters[0].cancelled()
    items.put_nowait("two")
    putters = [asyncio.create_task(items.put(name)) for name in ("three", "four")]
    await anyio.wait_all_tasks_blocked()
    assert items.get_nowait() == "two"
    putters[0].cancel()
    await asyncio.wait_for(putters[1], 5)
    assert putters[0].cancelled()
    assert items.get_nowait() == "four"


async def test_putting_and_getting_can_be_cancelled_at_every_await() -> None:
    for at in range(1, MANY):
        items: Queue[int] = Queue(1)

        async def both(items: Queue[int] = items) -> None:
            await items.put(1)
            await items.get()

        if not await cancel_at(at, both):
            break
        assert not items._getters
        assert not items._putters
        items.put_nowait(2) if items.empty() else items.get_nowait()
    else:
        raise AssertionError("endless")
    assert at > 2


async def test_a_put_and_a_get_let_others_run() -> None:
    items: Queue[int] = Queue()
    turns: list[str] = []

    async def other() -> None:
        for _ in range(20):
            turns.append("other")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        for _ in range(20):
            await items.put(1)
            await items.get()
            turns.append("mine")
    assert "other" in turns[:3]


# what waits to be sent


def packets(*texts: str) -> list[Packet]:
    return [Packet(MESSAGE, text) for text in texts]


async def test_outgoing_packets_are_taken_in_order_and_once() -> None:
    outgoing = Outgoing()
    one, two, three = packets("1", "2", "3")
    outgoing.put_nowait(one)
    await outgoing.put(two)
    assert len(outgoing) == 2
    await outgoing.wait()
    assert outgoing.take() == [one, two]
    assert outgoing.take() == []
    outgoing.put_nowait(three)
    outgoing.close()
    outgoing.put_nowait(one)
    assert outgoing.take() == [three]
    await outgoing.wait()


@pytest.mark.parametrize("what", ["put", "close", "wake"])
async def test_what_wakes_the_one_that_waits_for_packets(what: str) -> None:
    outgoing = Outgoing()
    woken = anyio.Event()

    async def wait() -> None:
        await outgoing.wait()
        woken.set()

    async with started(wait):
        assert not woken.is_set()
        {
            "put": lambda: outgoing.put_nowait(packets("x")[0]),
            "close": outgoing.close,
            "wake": outgoing.wake,
        }[what]()
        await anyio.wait_all_tasks_blocked()
        assert woken.is_set()


async def test_a_put_never_yields() -> None:
    outgoing = Outgoing()
    step = outgoing.put(packets("x")[0]).__await__()
    with pytest.raises(StopIteration):
        next(step)


async def test_cancelling_the_one_that_waits_loses_no_packet() -> None:
    outgoing = Outgoing()
    assert await cancel_at(1, outgoing.wait)
    outgoing.put_nowait(packets("x")[0])
    await outgoing.wait()
    assert len(outgoing.take()) == 1
    # its turn has come, and it is cancelled all the same
    async with started(outgoing.wait):
        outgoing.put_nowait(packets("y")[0])
    assert len(outgoing.take()) == 1


# the timetable


async def test_timers_are_called_in_the_order_of_their_times() -> None:
    timetable = Timetable()
    called: list[str] = []
    async with started(timetable.run):
        timetable.call_later(0.03, lambda: called.append("c"))
        timetable.call_later(0.01, lambda: called.append("a"))
        never = timetable.call_later(0.02, lambda: called.append("never"))
        same = [timetable.call_later(0, lambda n=n: called.append(n)) for n in "123"]
        never.cancel()
        assert same == sorted(same)
        await eventually(lambda: "c" in called)
    assert called == ["1", "2", "3", "a", "c"]


async def test_a_timer_can_make_and_cancel_others() -> None:
    timetable = Timetable()
    called: list[str] = []
    timers: list[Any] = []

    def first() -> None:
        called.append("first")
        timers[0].cancel()
        timetable.call_later(0.001, lambda: called.append("third"))

    async with started(timetable.run):
        timetable.call_later(0.005, first)
        timers.append(timetable.call_later(0.006, lambda: called.append("second")))
        await eventually(lambda: "third" in called)
    assert called == ["first", "third"]


async def test_a_sooner_timer_is_not_kept_waiting_by_a_later_one() -> None:
    timetable = Timetable()
    called = anyio.Event()
    async with started(timetable.run):
        timetable.call_later(1_000, lambda: None)
        await anyio.wait_all_tasks_blocked()
        timetable.call_later(0.001, called.set)
        with anyio.fail_after(5):
            await called.wait()


async def test_a_timer_is_never_early() -> None:
    timetable = Timetable()
    early: list[float] = []
    left = 50

    def check(due: float) -> Callable[[], None]:
        def called() -> None:
            nonlocal left
            left -= 1
            early.append(max(0.0, due - anyio.current_time()))

        return called

    async with started(timetable.run):
        for number in range(left):
            delay = number * 0.0007
            timetable.call_later(delay, check(anyio.current_time() + delay))
        await eventually(lambda: left == 0)
    assert max(early) < 1e-4


@pytest.mark.parametrize("fired", [False, True])
async def test_a_timer_lets_go_of_what_it_called(fired: bool) -> None:
    class Thing:
        def method(self) -> None:
            pass

    timetable = Timetable()
    thing = Thing()
    timer = timetable.call_later(100, thing.method)
    reference = weakref.ref(thing)
    timer.fire() if fired else timer.cancel()
    del thing
    gc.collect()
    assert reference() is None
    timer.fire()


async def test_timers_that_were_cancelled_do_not_pile_up() -> None:
    timetable = Timetable()
    async with started(timetable.run):
        keep = [timetable.call_later(500, lambda: None) for _ in range(10)]
        for _ in range(10_000):
            timetable.call_later(1_000, lambda: None).cancel()
        await anyio.wait_all_tasks_blocked()
        assert len(timetable._timers) < 1_000
        assert all(timer in timetable._timers for timer in keep)


# the server's tasks


async def test_handlers_begin_in_the_order_of_their_beginning() -> None:
    tasks = ServerTasks(logger)
    begun: list[int] = []

    async def handler(number: int) -> None:
        begun.append(number)
        await anyio.sleep(0.001 * (number % 3))
        begun.append(-number)

    async with tasks.run():
        for number in range(1, 101):
            await tasks.begin(handler, number)
            assert begun[-1] == number or number in begun
        await tasks.settle()
    assert [number for number in begun if number > 0] == list(range(1, 101))
    assert len(begun) == 200


async def test_what_a_handler_raises_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = ServerTasks(logger)
    ran: list[str] = []

    async def at_once() -> None:
        raise ValueError("at once")

    async def later() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("later")

    async def group() -> None:
        async with anyio.create_task_group() as inner:
            inner.start_soon(later)

    async def fine() -> None:
        await anyio.sleep(0.01)
        ran.append("fine")

    async with tasks.run():
        await tasks.begin(fine)
        for function in (at_once, later, group):
            await tasks.begin(function)
            tasks.speak_last(object(), function)
        await tasks.settle()
        assert ran == ["fine"]
        assert tasks.running
    errors = [record.exc_info for record in caplog.records]
    assert [type(info[1]) for info in errors if info].count(ValueError) == 2
    assert len(errors) == 6


async def test_begin_can_be_cancelled_at_every_await() -> None:
    tasks = ServerTasks(logger)
    release = anyio.Event()

    async def handler() -> None:
        await release.wait()

    async with tasks.run():
        for at in range(1, MANY):
            if not await cancel_at(at, lambda: tasks.begin(handler)):
                break
        assert at > 1
        release.set()
        with anyio.fail_after(5):
            await tasks.settle()


async def test_nothing_outlives_the_block() -> None:
    tasks = ServerTasks(logger)
    ended: list[str] = []

    async def endless(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async with tasks.run():
        await tasks.begin(endless, "handler")
        tasks.start_soon(endless, "transport")
        background = tasks.background(endless, ("background",), {})
        await anyio.wait_all_tasks_blocked()
    assert sorted(ended) == ["background", "handler", "transport"]
    assert background.done()
    assert await background is None
    assert not tasks.running


async def test_last_words_outlive_a_cancellation_until_they_are_hushed() -> None:
    tasks = ServerTasks(logger)
    said: list[str] = []
    release = anyio.Event()

    async def last_words(name: str, wait: Callable[[], Awaitable[Any]]) -> None:
        try:
            await wait()
            said.append(name)
        finally:
            said.append(f"{name} ended")

    with anyio.CancelScope() as outer:
        async with tasks.run():
            tasks.speak_last(object(), last_words, "brief", release.wait)
            tasks.speak_last(object(), last_words, "endless", anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                assert said == []
                release.set()
                await eventually(lambda: "brief ended" in said)
                assert tasks.hush() == 1
                await tasks.settle()
            assert said == ["brief", "brief ended", "endless ended"]
    assert tasks.hush() == 0


async def test_what_has_to_be_finished_goes_on_without_the_one_that_awaits_it() -> None:
    tasks = ServerTasks(logger)
    release = anyio.Event()
    log: list[str] = []

    async def work(name: str) -> None:
        assert tasks.is_mine("subject")
        await release.wait()
        log.append(name)

    with anyio.CancelScope() as outer:
        async with tasks.run():
            assert await cancel_at(1, lambda: tasks.finish(work, "first", subject="subject"))
            async with started(lambda: tasks.finish(work, "second", subject="subject")):
                assert log == []
                outer.cancel()
                with anyio.CancelScope(shield=True):
                    release.set()
                    await tasks.settle()
    assert sorted(log) == ["first", "second"]


async def test_without_its_block_nothing_can_be_started() -> None:
    tasks = ServerTasks(logger)

    async def check() -> None:
        with pytest.raises(RuntimeError, match="the server does not run"):
            tasks.start_soon(anyio.sleep_forever)
        with pytest.raises(RuntimeError, match="the server does not run"):
            tasks.speak_last("subject", anyio.sleep_forever)
        for await_it in (tasks.begin, tasks.apart):
            with pytest.raises(RuntimeError, match="the server does not run"):
                await await_it(anyio.sleep_forever)
        with pytest.raises(RuntimeError, match="the server does not run"):
            tasks.background(anyio.sleep_forever, (), {})

    await check()
    async with tasks.run():
        pass
    await check()


async def test_the_blocks_own_error_leaves_it_unwrapped() -> None:
    tasks = ServerTasks(logger)
    with pytest.raises(LookupError, match="mine"):
        async with tasks.run():
            await tasks.begin(anyio.sleep_forever)
            raise LookupError("mine")


# awaiting something in the server's group


async def test_what_is_done_apart_is_returned_or_raised() -> None:
    tasks = ServerTasks(logger)

    async def double(number: int) -> int:
        await anyio.sleep(0.001)
        if number < 0:
            raise LookupError(number)
        return 2 * number

    async with tasks.run():
        assert await tasks.apart(double, 4) == 8
        with pytest.raises(LookupError):
            await tasks.apart(double, -1)


async def test_cancelling_the_one_that_awaits_cancels_what_is_done_apart() -> None:
    tasks = ServerTasks(logger)
    running = 0

    async def work() -> None:
        nonlocal running
        running += 1
        try:
            await anyio.sleep_forever()
        finally:
            running -= 1

    async with tasks.run():
        assert await cancel_at(1, lambda: tasks.apart(work))
        await anyio.wait_all_tasks_blocked()
        assert running == 0
        async with started(tasks.apart, work):
            assert running == 1
        await anyio.wait_all_tasks_blocked()
        assert running == 0


async def test_one_that_awaits_is_not_held_up_by_what_is_shielded() -> None:
    tasks = ServerTasks(logger)
    release = anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async with tasks.run():
        with anyio.move_on_after(0.01) as scope, anyio.fail_after(5):
            await tasks.apart(stubborn)
        assert scope.cancelled_caught
        release.set()


async def test_what_is_done_apart_ends_with_the_block() -> None:
    tasks = ServerTasks(logger)
    outcome: list[BaseException] = []

    async def outside() -> None:
        try:
            await tasks.apart(anyio.sleep_forever)
        except EndedError as exc:
            outcome.append(exc)

    async with anyio.create_task_group() as group, tasks.run():
        group.start_soon(outside)
        await anyio.wait_all_tasks_blocked()
    assert len(outcome) == 1


# background tasks


async def test_a_background_task_gives_its_result() -> None:
    tasks = ServerTasks(logger)

    async def add(first: int, *, second: int) -> int:
        await anyio.sleep(0.001)
        return first + second

    async with tasks.run():
        task = tasks.background(add, (1,), {"second": 2})
        assert not task.done()
        results: list[int] = []

        async def wait() -> None:
            results.append(await task)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
        assert results == [3, 3]
        assert task.done()
        assert await task.wait() == 3
        task.cancel()
        assert await task == 3
        assert await tasks.background(lambda: "sync", (), {}) == "sync"


async def test_what_a_background_task_raises_is_logged_and_raised_where_it_is_awaited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = ServerTasks(logger)

    async def later() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("later")

    def at_once() -> None:
        raise LookupError("at once")

    async with tasks.run():
        for function in (later, at_once):
            task = tasks.background(function, (), {})
            for _ in range(2):
                with pytest.raises(LookupError):
                    await task
        assert tasks.running
    assert len([r for r in caplog.records if "raised" in r.getMessage()]) == 2


async def test_a_background_task_can_be_cancelled_before_and_after_it_has_begun() -> None:
    tasks = ServerTasks(logger)
    log: list[str] = []

    async def work(name: str) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            log.append(name)
        return name

    async with tasks.run():
        early = tasks.background(work, ("early",), {})
        early.cancel()
        late = tasks.background(work, ("late",), {})
        await anyio.wait_all_tasks_blocked()
        late.cancel()
        with anyio.fail_after(5):
            assert await early is None
            assert await late is None
        assert sorted(log) == ["early", "late"]


async def test_cancelling_the_one_that_awaits_a_background_task_leaves_it_alone() -> None:
    tasks = ServerTasks(logger)
    release = anyio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    async with tasks.run():
        task = tasks.background(work, (), {})
        assert await cancel_at(1, task.wait)
        assert not task.done()
        release.set()
        assert await task == "done"
