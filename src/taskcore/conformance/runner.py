"""certify(): every check on one broker, side by side, each with a time limit, and nothing left behind.

A check during which this machine stood still for a good part of a lease proves nothing: its lease ran out because of
us. So the runner watches its own clock, and plays such a check again before it calls a promise broken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import anyio
import anyio.abc

from taskcore.adapters import has_store
from taskcore.config import show
from taskcore.conformance.certificate import Certificate, CheckResult, Standing
from taskcore.conformance.checks import Check, all_checks
from taskcore.conformance.clauses import CLAUSES
from taskcore.conformance.harness import Harness
from taskcore.errors import InvalidSetting
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.urls import mask_url

__all__ = ["certify", "run_check"]

CHECK_TIMEOUT = 20.0  #: seconds that a check may take
CONCURRENT_CHECKS = 12  #: checks that run at the same time
TRIES_AFTER_STALLS = 3  #: how often a check is played if the machine stands still meanwhile
OnResult = Callable[[CheckResult, int], None]


async def certify(
    url: str,
    *,
    store: str | None = None,
    only: Collection[str] | None = None,
    on_progress: OnResult | None = None,
    lease: float = 1.0,
    margin: float = 1.0,
    limit: float = CHECK_TIMEOUT,
    concurrency: int = CONCURRENT_CHECKS,
) -> Certificate:
    """Play the whole suite on the broker at this URL, and say what it keeps.

    :param store: where records are kept, if not in the broker.
    :param only: clauses such as ``"C7"`` or names of checks; None: all.
    :param on_progress: called with each result, and how many are still to come.
    :param lease: seconds; checks wait for leases to end, so it decides how long the suite takes.
    :param margin: seconds that something may come late because the machine is busy.
    :param limit: seconds that a check may take.
    :param concurrency: checks that run at the same time.
    :raises InvalidSetting: ``only`` names something that does not exist (TC104).
    :raises BrokerUnavailable: broker or store cannot be reached.
    """
    checks = _choose(only)

    def make() -> Harness:
        return Harness.at(url, store=store, lease=lease, margin=margin)

    began = anyio.current_time()
    async with make() as harness:
        features = harness.features
        if harness.has_store:
            await harness.store()
    results: dict[str, CheckResult] = {}
    left: list[str] = []
    lateness: list[float] = []
    gate, stalls = anyio.CapacityLimiter(concurrency), Stalls(lease / 3)

    async def one(check: Check) -> None:
        async with gate:
            results[check.name] = result = await run_check(
                check, make, limit=limit, stalls=stalls, left=left, lateness=lateness
            )
        if on_progress is not None:
            on_progress(result, len(checks) - len(results))

    await _run_all(checks, one, stalls)
    records = store or (url if has_store(url) else None)
    return Certificate(
        url=mask_url(url),
        store=show("store", records) if records else None,
        version=_version(),
        features=features,
        only=tuple(one.upper() if one.upper() in CLAUSES else one for one in only or ()),
        lease=lease,
        seconds=anyio.current_time() - began,
        results=tuple(results[check.name] for check in checks),
        latest=max(lateness, default=None),
        left=tuple(left),
    )


async def _run_all(checks: Sequence[Check], one: Callable[[Check], Coroutine[Any, Any, None]], stalls: Stalls) -> None:
    """Run the checks side by side, and watch for stalls of the event loop meanwhile."""
    with unwrap_single():
        async with anyio.create_task_group() as watching:
            watching.start_soon(stalls.watch)
            async with anyio.create_task_group() as group:
                for check in checks:
                    group.start_soon(one, check)
            watching.cancel_scope.cancel()


async def run_check(
    check: Check,
    make: Callable[[], Harness],
    *,
    limit: float = CHECK_TIMEOUT,
    stalls: Stalls | None = None,
    left: list[str] | None = None,
    lateness: list[float] | None = None,
) -> CheckResult:
    """Play one check on a harness of its own.

    :param make: gives a new harness; called once, or again if the machine stood still.
    :param left: gets what the check left behind.
    :param lateness: gets how late delayed jobs were.
    """
    began = started = anyio.current_time()
    harness = make()
    standing, why = await _run_once(check, harness, limit)
    for _ in range(1, TRIES_AFTER_STALLS):
        if standing != "broken" or stalls is None or not stalls.since(started):
            break
        started, harness = anyio.current_time(), make()
        standing, why = await _run_once(check, harness, limit)
    if left is not None and standing != "refused":
        left += await _left_by(harness, limit)
    if lateness is not None:
        lateness += harness.lateness
    return CheckResult(
        check=check.name,
        clauses=check.clauses,
        standing=standing,
        doc=check.doc,
        why=why,
        seconds=anyio.current_time() - began,
    )


async def _run_once(check: Check, harness: Harness, limit: float) -> tuple[Standing, str]:
    try:
        with anyio.move_on_after(limit) as scope:
            async with harness:
                refused = check.refused(harness.features, has_store=harness.has_store)
                if refused is not None:
                    return "refused", refused
                await check(harness)
    except Exception as error:  # noqa: BLE001 - whatever a broker does to a check, the others are played
        return "broken", _text(error)
    if scope.cancelled_caught:
        return "broken", f"it did not end within {limit:g} s"
    return ("emulated" if check.emulated(harness.features) else "kept"), ""


async def _left_by(harness: Harness, limit: float) -> list[str]:
    try:
        with anyio.fail_after(limit):
            return await harness.traces()
    except Exception as error:  # noqa: BLE001 - not to know is not to have cleared away
        return [f"unknown, because looking failed: {_text(error)}"]


def _text(error: BaseException) -> str:
    """Write an error in one line."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    text = str(error).partition("\n")[0]
    return text if isinstance(error, AssertionError) and text else f"{type(error).__qualname__}: {text}"


def _choose(only: Collection[str] | None) -> list[Check]:
    checks = all_checks()
    if only is None:
        return checks
    wanted = {one.upper() if one.upper() in CLAUSES else one for one in only}
    _must_exist(wanted, {check.name for check in checks})
    return [check for check in checks if check.name in wanted or wanted.intersection(check.clauses)]


def _must_exist(wanted: Iterable[str], names: Collection[str]) -> None:
    unknown = [one for one in wanted if one not in CLAUSES and one not in names]
    if unknown:
        raise InvalidSetting(
            f"there is no clause or check {', '.join(sorted(unknown))}",
            fix=f"clauses are {next(iter(CLAUSES))} to {list(CLAUSES)[-1]}; checks are listed in docs/guarantees.md",
        )


def _version() -> str:
    try:
        return version("taskcore-framework")
    except PackageNotFoundError:  # a checkout that is not installed
        return "(not installed)"


class Stalls:
    """When this process stood still for longer than it should.

    :param longest: seconds that are nothing to speak of.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._last = float("-inf")

    def since(self, start: float) -> bool:
        """Tell whether it stood still at any time after ``start``."""
        return self._last >= start

    async def watch(self) -> None:
        """Notice until cancelled."""
        pause = self._longest / 4
        while True:
            asleep = anyio.current_time()
            await anyio.sleep(pause)
            if anyio.current_time() - asleep - pause > self._longest:
                self._last = anyio.current_time()
