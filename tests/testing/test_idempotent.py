"""assert_idempotent: tasks that are, tasks that are not, and where."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from taskcore import InvalidArguments, InvalidSetting, Router, current
from taskcore.testing.idempotent import NotIdempotent, assert_idempotent

pytestmark = pytest.mark.anyio

router = Router()
charges: list[str] = []
done: set[str] = set()


@pytest.fixture(autouse=True)
def fresh_world():
    """Forget what has happened."""
    forget()


def forget():
    """Forget what has happened."""
    charges.clear()
    done.clear()


async def ask_bank():
    """Answer without waiting, as a fake."""
    return True


@router.task
async def careless(order: int) -> None:
    """Charge at every run."""
    await anyio.lowlevel.checkpoint()
    charges.append(f"order {order}")
    await anyio.lowlevel.checkpoint()  # cut here: charged, and charged again


@router.task
async def careful(order: int) -> None:
    """Charge once for each job."""
    await anyio.lowlevel.checkpoint()
    job = current().job_id
    if job not in done:
        done.add(job)
        charges.append(f"order {order}")
    await anyio.lowlevel.checkpoint()


@router.task
async def late_note(order: int) -> None:
    """Note what it has done too late: there is an await in between."""
    if order in done:
        return
    charges.append(f"order {order}")
    await ask_bank()
    done.add(order)


@router.task
def plain(order: int) -> None:
    """Charge in a plain function."""
    charges.append(f"order {order}")


async def test_a_careless_task():
    """A task that does it again is reported with every place after which the effect has already happened."""
    with pytest.raises(NotIdempotent) as failure:
        await assert_idempotent(careless, 7, effects=charges)
    text = str(failure.value)
    assert "careless is not idempotent" in text
    assert "run once                  ['order 7']" in text
    assert "run again             ['order 7', 'order 7']" in text
    line = careless.contract.function.__code__.co_firstlineno + 5
    before, within = failure.value.places[1:]
    assert failure.value.places[0] == "the end"
    assert before == f"testing/test_idempotent.py:{line} in careless (before it awaits)"
    assert within == f"testing/test_idempotent.py:{line} in careless (while it waits)"


async def test_a_careful_task():
    """A task that does it once passes, cut before and inside of each of its awaits."""
    proof = await assert_idempotent(careful, 7, effects=charges, reset=forget)
    assert proof.effects == ["order 7"]
    assert len(proof.cuts) == 4
    assert not proof.note
    assert (charges, done) == ([], set()), "the world is as it was before"


async def test_an_await_that_never_waits():
    """An await in which nothing waits is a place of a crash all the same."""
    with pytest.raises(NotIdempotent) as failure:
        await assert_idempotent(late_note, 7, effects=charges, reset=forget)
    [place] = failure.value.places
    assert "in late_note (before it awaits)" in place


async def test_a_snapshot():
    """Effects may be a function, plain or async, if there is one that puts the world back."""

    async def read():
        await anyio.lowlevel.checkpoint()
        return sorted(charges)

    async def clear():
        await anyio.lowlevel.checkpoint()
        forget()

    await assert_idempotent(careful, order=7, effects=read, reset=clear)
    with pytest.raises(NotIdempotent):
        await assert_idempotent(careless, order=7, effects=read, reset=clear)
    with pytest.raises(InvalidSetting, match="reset=clear"):
        await assert_idempotent(careful, order=7, effects=read)


async def test_a_plain_function():
    """A plain function is run twice, and the proof says that this was all."""
    with pytest.raises(NotIdempotent, match="cut at the end"):
        await assert_idempotent(plain, 7, effects=charges)
    proof = await assert_idempotent(plain, 7, effects=lambda: set(charges), reset=forget)
    assert (proof.cuts, proof.note) == ((), "a plain function cannot be cut: it was run twice")


async def test_state_kept_by_a_task_must_be_reset():
    """Without a reset of what it remembers a careful task seems to do nothing; the text says so."""
    with pytest.raises(NotIdempotent, match=r"Something is missing there.*reset=…"):
        await assert_idempotent(careful, 7, effects=charges)


async def test_failing_when_run_again():
    """A second run that fails is a finding; a first one that fails is an error of the test."""

    async def fussy() -> None:
        if charges:
            raise LookupError("charged already")
        charges.append("once")
        await anyio.lowlevel.checkpoint()

    with pytest.raises(NotIdempotent, match="failed with LookupError: charged already"):
        await assert_idempotent(fussy, effects=charges)
    charges.append("before")
    with pytest.raises(LookupError):
        await assert_idempotent(fussy, effects=charges)


async def test_a_redelivery_is_the_same_job():
    """Each run sees the same job, with a higher fence."""
    seen: list[tuple[str, int]] = []

    @Router().task(name="look")
    async def look() -> None:
        seen.append((current().job_id, current().fence))
        await anyio.lowlevel.checkpoint()

    await assert_idempotent(look, effects=[])
    assert len({job for job, _ in seen}) == 1
    assert [fence for _, fence in seen[:3]] == [1, 1, 2]


async def test_cleaning_up_runs():
    """A cut inside of an await is a cancellation: contexts are left, nothing is left over, the loop goes on."""
    left: list[str] = []

    async def tidy() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.001)
                with anyio.fail_after(5):
                    await anyio.sleep(0.001)
        finally:
            left.append("room")

    proof = await assert_idempotent(tidy, effects=[])
    assert len(proof.cuts) >= 3
    assert len(left) == 3 + 2 * len(proof.cuts) + 2
    await anyio.lowlevel.checkpoint()


async def test_a_loop_is_cut_at_every_turn():
    """Each turn of a loop is a place of its own, up to the limit."""

    async def turns() -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    assert len((await assert_idempotent(turns, effects=[])).cuts) == 10
    proof = await assert_idempotent(turns, effects=[], most=3)
    assert (len(proof.cuts), proof.note) == (3, "only the first 3 awaits were cut")


async def test_arguments_are_checked():
    """Arguments go through the contract, as those of a job."""
    with pytest.raises(InvalidArguments):
        await assert_idempotent(careful, "seven", effects=charges)
