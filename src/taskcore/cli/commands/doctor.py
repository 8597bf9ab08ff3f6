"""``taskcore doctor``: checks the app, its settings, the broker and the store, and prints a line for each finding.

A finding is ok, warn or fail, with what was checked, what was found, and what to do about it. A broker that cannot be
reached is a finding too; the command ends within a time limit, whatever the broker does (C22).
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

import anyio
import click

from taskcore.adapters import has_store, open_backend, open_store
from taskcore.backend import Backend, Features
from taskcore.cli.findings import FailedCheck, Finding, failed_check
from taskcore.cli.group import APP_DIR, DEBUG, Exit, installed_version
from taskcore.cli.loading import load_app
from taskcore.cli.output import paint, print_json, print_line
from taskcore.cli.queue_findings import queue_findings
from taskcore.cli.support import support_of
from taskcore.config import NO_STORE, Loaded, load, show
from taskcore.errors import BrokerUnavailable, TaskcoreError
from taskcore.preflight import Need, diagnoses, unmet_needs
from taskcore.store import Store
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, Level
from taskcore.toolkit.groups import unwrap_single

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["command"]

CONNECT_TIMEOUT = 15.0  #: seconds that connecting, and each question to the server, may take
ROUND_TRIPS = 20  #: light calls by which the round trip is measured
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
QUICKER = ("uvloop", "hiredis")  #: optional, and quicker
CLIENTS = ("anyio", "trio", "redis", "nats-py", "aio-pika", "aiormq", "psycopg", *QUICKER)
CRASHES = "crashes"
WIDTH = 18  #: of the column with the names of checks


@click.command("doctor", short_help="Test app, settings, broker, store, versions")
@click.argument("target", required=False, metavar="[MODULE:APP | URL]")
@click.option("--store", metavar="URL", help="Check this store too; only with the URL of a broker.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the last one with the totals.")
@APP_DIR
@DEBUG
def command(target: str | None, store: str | None, as_json: bool, app_dir: str) -> int:
    """Check an app, its settings, its broker and its store.

    MODULE:APP is an app, URL a broker; without either, the app or the broker that the settings name. The command
    changes nothing. The exit code is that of the first failure: 2 for settings, 3 for an app that cannot be loaded,
    4 for a broker or store that cannot be reached, 5 for an app that would not open there, 1 for any other check; else
    0. Warnings do not count.
    """
    if store is not None and (target is None or "://" not in target):
        raise click.UsageError("--store goes with the URL of a broker; an app brings its own store")
    found: list[Finding] = []
    for finding in _examine(target, store, app_dir):
        found.append(finding)
        if as_json:
            print_json(finding)
        else:
            print_line(_line(finding))
    failed, warnings = (sum(finding.level == level for finding in found) for level in ("fail", "warn"))
    if as_json:
        print_json({"failed": failed, "warnings": warnings})
    else:
        print_line(f"{failed} failed, {warnings} warning{'s' * (warnings != 1)}")
    return next((finding.exit_code for finding in found if isinstance(finding, FailedCheck)), Exit.DONE)


def _line(finding: Finding) -> str:
    level = paint(f"{finding.level:5}", COLOURS[finding.level], sys.stdout)
    clauses = f" (not kept: {', '.join(finding.clauses)})" if finding.clauses else ""
    fix = f"\n{'':6}{'':{WIDTH}} fix: {finding.fix}" if finding.fix and finding.level != "ok" else ""
    return f"{level} {finding.name:{WIDTH}} {finding.text}{clauses}{fix}"


# ── what this program knows ───────────────────────────────────────────────────────────────────


def _examine(target: str | None, store_url: str | None, app_dir: str) -> Iterator[Finding]:
    """Yield every finding, in an order in which each rests on the ones before."""
    yield _versions()
    try:
        settings = load(directory=app_dir)
    except TaskcoreError as error:
        yield failed_check("settings", error)
        return
    app: App | None = None
    is_strict = settings.settings.strict
    if target is not None and "://" in target:
        yield Finding(level="ok", name="settings", text=f"broker {show('url', target)} (from: argument)")
        url, records, came_from = target, store_url, "argument"
    elif target is not None or settings.settings.app is not None:
        began = time.perf_counter()
        try:
            app = load_app(target, app_dir)
        except TaskcoreError as error:
            yield failed_check("app", error)
            return
        yield _imported(app, target or str(settings.settings.app), time.perf_counter() - began)
        settings, is_strict = Loaded(app.settings, dict(app.sources)), app.settings.strict
        yield from _needs(app)
        url, records, came_from = app.settings.url, None, settings.sources["url"]
        yield _settings(settings)
    else:
        url, records, came_from = settings.settings.url, settings.settings.store, settings.sources["url"]
        yield _settings(settings)
    try:
        backend, store = (app.components.backend, app.components.store) if app is not None else _open(url, records)
    except TaskcoreError as error:
        yield failed_check("adapter", error)
        return
    yield from anyio.run(_ask, backend, store, app, f"the address came from: {came_from}", is_strict)


def _open(url: str, records: str | None) -> tuple[Backend, Store | None]:
    """Make backend and store of a broker without an app, not yet connected."""
    store = None if records == NO_STORE else records or (url if has_store(url) else None)
    return open_backend(url), None if store is None else open_store(store)


def _versions() -> Finding:
    """List the versions of what is installed."""
    known = [f"{name} {number}" for name in CLIENTS if (number := _version_of(name))]
    known += [f"no {name}" for name in QUICKER if _version_of(name) is None]
    text = " · ".join([f"taskcore {installed_version()}", f"python {platform.python_version()}", *known])
    return Finding(level="ok", name="versions", text=text)


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _imported(app: App, place: str, seconds: float) -> Finding:
    count = len(app.tasks)
    tasks = f"{count} task{'s' * (count != 1)}, no name twice" if count else "no tasks"
    text = f"{place} imports ({seconds:.2f} s), {tasks}"
    if count:
        return Finding(level="ok", name="app", text=text)
    return Finding(level="warn", name="app", text=text, fix="import the modules that declare the tasks")


def _settings(settings: Loaded) -> Finding:
    one, sources = settings.settings, settings.sources
    store = "the broker's own" if one.store is None else f"{show('store', one.store)} (from: {sources['store']})"
    strict = f"strict (from: {sources['strict']})" if one.strict else "not strict"
    url = f"{show('url', one.url)} (from: {sources['url']})"
    return Finding(level="ok", name="settings", text=f"broker {url} · store {store} · {strict}")


def _needs_of(app: App) -> list[Need]:
    """List the needs because of which this app would not open."""
    return unmet_needs(app, app.components)


def _needs(app: App) -> Iterator[Finding]:
    if needs := _needs_of(app):
        text = f"[TC105] without a store the app does not open: {'; '.join(need.text for need in needs)}"
        fix = 'App(…, store="redis://…"), or drop these options'
        yield FailedCheck(level="fail", name="tasks", text=text, fix=fix, exit_code=Exit.REFUSED)


# ── what the servers know ───────────────────────────────────────────────────────────────────


async def _ask(
    backend: Backend, store: Store | None, app: App | None, came_from: str, is_strict: bool
) -> list[Finding]:
    """Connect and ask; a server that cannot be reached is a finding, too."""
    found: list[Finding] = []
    part: Literal["broker", "store"] = "broker"
    try:
        with unwrap_single():
            async with AsyncExitStack() as exits:
                with anyio.fail_after(CONNECT_TIMEOUT):
                    await exits.enter_async_context(backend)
                    took = await _round_trips(backend)
                said = await diagnoses(backend, None)
                found += _reached(backend.features, took, said.get("broker"))
                part = "store"
                if store is not None:
                    with anyio.fail_after(CONNECT_TIMEOUT):
                        await exits.enter_async_context(store)
                        await store.get("taskcore/doctor")
                    found += _kept(await diagnoses(None, store), said)
                    found += await _clocks(store, app)
                found += _abilities(backend.features, store, app)
                part = "broker"
                found += await queue_findings(backend, store, [task.spec.queue for task in app or ()])
    except TimeoutError as error:
        if isinstance(error, TaskcoreError):
            raise
        late = BrokerUnavailable(f"the {part} did not answer within {CONNECT_TIMEOUT:g} s")
        return [*found, failed_check(part, late, came_from if part == "broker" else "")]
    except TaskcoreError as error:
        return [*found, failed_check(part, error, came_from if part == "broker" else "")]
    return [_strictly(finding) for finding in found] if is_strict else found


async def _round_trips(backend: Backend) -> list[float]:
    """Measure how many seconds light calls take, in order of size."""
    took: list[float] = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        await backend.admin.queues()
        took.append(time.perf_counter() - began)
    return sorted(took)


def _strictly(finding: Finding) -> Finding:
    """Make a finding that breaks a guarantee a failure: a strict app does not open then."""
    if not finding.clauses or finding.name == CRASHES:
        return finding
    text = f"strict apps do not open: {finding.text}"
    return FailedCheck(
        level="fail", name=finding.name, text=text, fix=finding.fix, clauses=finding.clauses, exit_code=Exit.REFUSED
    )


def _reached(features: Features, took: list[float], said: Diagnosis | None) -> Iterator[Finding]:
    """Report which server answered, how fast, what a confirmed job survives there, and its settings."""
    middle, worst = took[len(took) // 2], took[len(took) * 99 // 100]
    server = features.broker if said is None else said.server
    trip = f"round trip {1000 * middle:.2f} ms (p99 {1000 * worst:.2f} ms)"
    yield Finding(level="ok", name="broker", text=f"{server} · {trip}")
    yield Finding(level="ok", name="jobs", text=features.durability if said is None else said.durability)
    if said is not None:
        yield from _facts("broker", said, ())
    else:
        text = "this backend cannot read the settings of its server"
        yield Finding(level="warn", name="diagnosis", text=text, fix="compare the settings with the broker's guide")


def _kept(said: Mapping[str, Diagnosis], before: Mapping[str, Diagnosis]) -> Iterator[Finding]:
    """Report the store, without what its server reported as the broker."""
    if "store" in said:
        yield Finding(level="ok", name="store", text=f"{said['store'].server} · {said['store'].durability}")
        yield from _facts("store", said["store"], before["broker"].checks if "broker" in before else ())
    else:
        yield Finding(level="ok", name="store", text="it answers; its settings cannot be read")


def _facts(role: str, diagnosis: Diagnosis, known: Sequence[DiagnosticCheck]) -> Iterator[Finding]:
    """Report the settings of a server; a guarantee that does not hold is never ok, even by design."""
    for fact in diagnosis.checks:
        if fact in known:
            continue
        level: Level = "warn" if fact.clauses and fact.level == "ok" else fact.level
        name = fact.name if role == "broker" else f"{role}: {fact.name}"
        yield Finding(level=level, name=name, text=fact.text, fix=fact.fix, clauses=fact.clauses)


async def _clocks(store: Store, app: App | None) -> list[Finding]:
    """Report workers whose clocks differ, if the app has schedules: one that is ahead fires early."""
    if app is None or not app.worker_services():
        return []
    from taskcore.schedules.clocks import clock_differences

    found = await clock_differences(store)
    if not found:
        return [Finding(level="ok", name="clocks", text="no worker that fires schedules was ahead of another lately")]
    return [
        Finding(
            level="warn",
            name="clocks",
            text=f"clocks differ by {one.seconds:g} s: {one.ahead} is ahead of {one.behind}, and fires schedules early",
            fix="synchronise the clocks of these machines, by NTP for example",
        )
        for one in found
    ]


def _abilities(features: Features, store: Store | None, app: App | None) -> Iterator[Finding]:
    """Report what the broker does by itself, and what counts the starts that kill a worker."""
    words = list(support_of(features))
    if app is not None:
        refused = dict.fromkeys(need.task or "schedules" for need in _needs_of(app))
        words.append(f"refused for: {', '.join(refused)}" if refused else "no task is refused")
    yield Finding(level="ok", name="features", text=" · ".join(words))
    if store is not None:
        text = "starts are marked in the store; a job that kills its worker is dead after its `crashes`"
        yield Finding(level="ok", name=CRASHES, text=text)
    elif features.redeliveries != "absent":
        text = (
            "no store: the broker's delivery count stands in, which also counts jobs prefetched beside the crashed one"
        )
        yield Finding(level="warn", name=CRASHES, text=text, fix="give the app a store", clauses=("C12",))
    else:
        text = "no store, and the broker does not count: a job that kills its worker is redelivered for ever"
        yield Finding(level="warn", name=CRASHES, text=text, fix="give the app a store", clauses=("C3", "C12"))
