"""assert_idempotent: whether running a task again does the same thing again to the world.

    await assert_idempotent(charge, 7, effects=charges)             ``charges``: a list that the task appends to
    await assert_idempotent(charge, 7, effects=read, reset=clear)   a function that gives a snapshot; one that empties

A worker may die, or lose its lease, at any moment; then the job is run again from its beginning. So the task is run

    once                    what it does to the world: the measure of everything else
    twice                   as after a lost acknowledgement
    cut, then to its end    cut before the 1st await, inside it, before the 2nd, … each time in a fresh world

Cutting is what a worker does to a run: inside of an await that waits, the run is cancelled. Before an await it ends
with an exception that no ``except Exception`` catches; that is nearest to a crash. Unlike in a real crash, ``finally``
blocks run.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, MutableSequence
from functools import partial
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import msgspec

from taskcore.envelope import FORMAT, Envelope, Trail, new_id, running
from taskcore.errors import InvalidSetting
from taskcore.task import Task
from taskcore.testing.stepping import Cut, CutHere, Driven
from taskcore.worker.context import Context
from taskcore.worker.runners.values import finish

__all__ = ["NotIdempotent", "Proof", "assert_idempotent"]

Effects: TypeAlias = "MutableSequence[Any] | Callable[[], Any]"

MOST_CUTS = 500


class NotIdempotent(AssertionError):
    """Running the task again did something again, or could not be done. ``places`` has file and line of each cut."""

    def __init__(self, text: str, places: list[str]) -> None:
        super().__init__(text)
        self.places = places


class Proof(msgspec.Struct, frozen=True):
    """What was tried.

    :param effects: of a single run.
    :param cuts: where it was cut, in order; a place in a loop is cut at every turn.
    :param note: what was not tried, and why; empty if nothing was left out.
    """

    effects: Any
    cuts: tuple[str, ...]
    note: str = ""


async def assert_idempotent(
    task: Task[..., Any] | Callable[..., Any],
    *args: Any,
    effects: Effects,
    reset: Callable[[], Any] | None = None,
    most: int = MOST_CUTS,
    **kwargs: Any,
) -> Proof:
    """Run a task once, twice, and cut at every await and then again; compare what it did to the world.

    ``current()`` works in it: the same job each time, with a fence that grows, as in a redelivery. A plain function
    cannot be cut; it is run twice only, and the proof's note says so.

    :param effects: a list that the task appends to, or a function (plain or async) that gives a comparable snapshot.
    :param reset: puts the world back to where it was before (plain or async). For a list of effects the default puts
        back the list; give one if the task remembers what it has done anywhere else.
    :param most: how many cuts at most.
    :raises NotIdempotent: the world differs from that of a single run; the text says after which cut.
    :raises InvalidSetting: ``effects`` is a function and there is no ``reset``.
    """
    trial = _Trial(task, args, kwargs, effects, reset)
    return await trial.run(most)


class _Trial:
    """One task, one set of arguments, one world."""

    def __init__(
        self,
        task: Task[..., Any] | Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        effects: Effects,
        reset: Callable[[], Any] | None,
    ) -> None:
        self._task = task
        self._function: Callable[..., Any] = task.contract.function if isinstance(task, Task) else task
        self._name = task.name if isinstance(task, Task) else getattr(task, "__qualname__", repr(task))
        self._args, self._kwargs = args, kwargs
        self._effects = effects
        self._reset = reset or _putting_back(effects)
        self._job = self._envelope()
        self._starts = 0

    async def run(self, most: int) -> Proof:
        """Try everything, from a fresh world each time."""
        once = await self._world(self._whole)
        problems: list[tuple[str, str, Any]] = []
        await self._compare(once, "the end", problems, self._whole, self._whole)
        cuts: list[str] = []
        note = "" if inspect.iscoroutinefunction(self._function) else "a plain function cannot be cut: it was run twice"
        while not note:
            cut = Cut(len(cuts) + 1)
            await self._compare(once, cut, problems, partial(self._cut, cut), self._whole)
            if cut.place is None:
                break
            cuts.append(cut.place)
            if len(cuts) >= most:
                note = f"only the first {most} awaits were cut"
        await _call(self._reset)
        if problems:
            raise self._failure(once, problems)
        return Proof(once, tuple(cuts), note)

    async def _compare(self, once: Any, cut: Cut | str, problems: list[tuple[str, str, Any]], *runs: Any) -> None:
        try:
            again = await self._world(*runs)
        except Exception as error:  # noqa: BLE001 - a run that fails where the first one did not is the finding
            place = str(cut)
            problems.append((place, f"running it again failed with {type(error).__qualname__}: {error}", None))
            return
        if again != once and str(cut) not in [place for place, _, _ in problems]:
            problems.append((str(cut), "", again))

    async def _world(self, *runs: Callable[[], Awaitable[None]]) -> Any:
        """Return the effects of these runs in a fresh world."""
        await _call(self._reset)
        self._starts = 0
        for run in runs:
            await run()
        return copy.deepcopy(await _call(self._effects) if callable(self._effects) else list(self._effects))

    # ── running ──

    async def _whole(self) -> None:
        """Run from the beginning to the end."""
        token = running.set(self._context())
        try:
            if inspect.iscoroutinefunction(self._function):
                await self._start()
            else:
                await finish(await anyio.to_thread.run_sync(self._start))
        finally:
            running.reset(token)

    async def _cut(self, cut: Cut) -> None:
        """Run from the beginning to the cut, if it comes that far."""
        token = running.set(self._context())
        try:
            with anyio.CancelScope() as cut.scope:
                await Driven(self._start(), cut)
        except Exception:
            if not cut.made:
                raise
        except BaseException as error:
            if not _is_cut(error):
                raise
        finally:
            running.reset(token)

    def _start(self) -> Any:
        """Make a call with fresh arguments: by a task's contract, so that no run sees what another has changed."""
        if isinstance(self._task, Task):
            contract = self._task.contract
            return contract.invoke(self._function, contract.unpack(bytes(self._job.args), contract.version))
        return self._function(*copy.deepcopy(self._args), **copy.deepcopy(self._kwargs))

    def _envelope(self) -> Envelope:
        if not isinstance(self._task, Task):
            return Envelope(v=FORMAT, id=new_id(), task=self._name, args=msgspec.Raw(b"{}"), enqueued_at=0.0)
        call = self._task.call(*self._args, **self._kwargs)
        return Envelope(
            v=FORMAT,
            id=new_id(),
            task=self._task.name,
            version=self._task.contract.version,
            queue=self._task.spec.queue,
            args=msgspec.Raw(call.payload),
            enqueued_at=0.0,
            key=call.key,
        )

    def _context(self) -> Context:
        """Return the context of the same job each time, for a new holder."""
        self._starts += 1
        return Context(self._job, Trail(), self._job.queue, self._starts - 1, self._starts, _never)

    def _failure(self, once: Any, problems: list[tuple[str, str, Any]]) -> NotIdempotent:
        lines = [f"{self._name} is not idempotent: running it again changes what it does to the world", ""]
        lines += [f"  run once                  {once!r}"]
        for place, failure, again in problems:
            lines += ["", f"  cut at {place}", f"  and run again             {failure or repr(again)}"]
        if any(again is not None and _is_less(again, once) for _, _, again in problems):
            lines += [
                "",
                "  Something is missing there: if the task remembers what it has done, reset that too (reset=…).",
            ]
        return NotIdempotent("\n".join(lines), [place for place, _, _ in problems])


def _putting_back(effects: Effects) -> Callable[[], None]:
    """Return the function that puts a list back as it was, before each run."""
    if callable(effects):
        raise InvalidSetting(
            "effects is a function, so there is no way to undo its effects before each run",
            fix="assert_idempotent(…, effects=read, reset=clear)  or a list that the task appends to",
        )
    before = list(effects)

    def put_back() -> None:
        effects[:] = before

    return put_back


def _is_cut(error: BaseException) -> bool:
    """Tell whether it is the cut and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split((CutHere, Exception))[1] is None
    return isinstance(error, CutHere)


def _is_less(again: Any, once: Any) -> bool:
    try:
        return len(again) < len(once)
    except TypeError:
        return False


async def _call(function: Callable[[], Any]) -> Any:
    value = function()
    return await value if inspect.isawaitable(value) else value


async def _never(_: str) -> bool:
    return False
