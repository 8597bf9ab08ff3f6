"""``taskcore worker``: run jobs until a signal."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import click

from taskcore.cli.group import APP_DIR, DEBUG, installed_version
from taskcore.cli.loading import load_app
from taskcore.cli.logs import LogFormat, configure_logging
from taskcore.cli.output import say
from taskcore.config import check, show
from taskcore.errors import AdapterMissing, BrokerUnavailable, InvalidSetting
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import duration, show_duration

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["command"]

log = logger("taskcore.worker")

EXTRA_OF = {"uvloop": "speed", "trio": "trio"}

#: event → its word in the last line
COUNTED = {
    "job.succeeded": "succeeded",
    "job.skipped": "done before",
    "job.retried": "retried",
    "job.buried": "dead",
    "job.parked": "parked",
    "job.cancelled": "cancelled",
    "job.expired": "expired",
    "job.released": "released",
    "job.lost": "lost",
}


def _time(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else duration(value)
    except InvalidSetting:
        raise click.BadParameter(f'{value!r} is not a time; give seconds, or text such as "1m30s"') from None


@click.command("worker", short_help="Run jobs until a signal")
@click.argument("app", required=False, metavar="[MODULE:APP]")
@click.option(
    "-q", "--queues", multiple=True, metavar="A,B", help="Take jobs of these queues only, earlier ones first."
)
@click.option("-c", "--concurrency", type=click.IntRange(1, 100_000), metavar="N", help="Run this many jobs at once.")
@click.option("--grace", callback=_time, metavar="TIME", help="When stopping, let running jobs go on for this long.")
@click.option(
    "--loop",
    "loop_name",
    type=click.Choice(["auto", "asyncio", "uvloop", "trio"]),
    default="auto",
    show_default=True,
    help="Event loop; auto takes uvloop if it is installed.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log what is at least this important, to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log lines for people, or one JSON object a line.",
)
@APP_DIR
@DEBUG
def command(
    app: str | None,
    queues: tuple[str, ...],
    concurrency: int | None,
    grace: float | None,
    loop_name: str,
    log_level: str,
    log_format: LogFormat,
    app_dir: str,
) -> None:
    """Run the jobs of an app until SIGTERM or Ctrl-C.

    MODULE:APP is where the app is, such as shop.tasks:app; the settings may name it instead.

    The first Ctrl-C or SIGTERM lets running jobs finish within the grace, the second stops them at once. Either way
    unfinished jobs go back to their queues.
    """
    loop = choose_loop(loop_name)
    loaded = load_app(app, app_dir)
    chosen = check("queues", ",".join(queues)) if queues else None
    configure_logging(log_level, log_format)
    tell = log.info if log_format == "json" else say
    for line in banner(loaded, app or loaded.settings.app or "", loop, chosen, concurrency, grace):
        tell(line)
    backend = "trio" if loop == "trio" else "asyncio"
    try:
        anyio.run(serve, loaded, chosen, concurrency, grace, tell, backend=backend, backend_options=loop_options(loop))
    except BrokerUnavailable as error:
        raise error.with_facts(f"the address came from: {loaded.sources['url']}") from error.__cause__


async def serve(
    app: App,
    queues: Sequence[str] | None,
    concurrency: int | None,
    grace: float | None,
    tell: Callable[[str], None] = say,
) -> None:
    """Connect, say so, and work until a signal."""
    began = time.monotonic()
    ready = False
    async with app:
        try:
            with unwrap_single():
                async with anyio.create_task_group() as group:
                    work = partial(app.run_worker, queues=queues, concurrency=concurrency, grace=grace)
                    await group.start(work)
                    ready = True
                    took = time.monotonic() - began
                    tell(f"ready in {took:.2f}s. Ctrl-C once to let running jobs finish, twice to stop at once")
        finally:
            if ready:
                tell(farewell(app.counters, time.monotonic() - began))


def choose_loop(name: str) -> str:
    """Choose the event loop.

    :raises AdapterMissing: it is not installed (TC102).
    """
    if name == "auto":
        return "uvloop" if find_spec("uvloop") else "asyncio"
    if name in EXTRA_OF and find_spec(name) is None:
        raise AdapterMissing(
            f"--loop {name} needs {name}, which is not installed",
            fix=f'pip install "taskcore-framework[{EXTRA_OF[name]}]"',
        )
    return name


def loop_options(loop: str) -> dict[str, Any]:
    """Make anyio's options for the loop."""
    return {"use_uvloop": True} if loop == "uvloop" else {}


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


def banner(
    app: App, place: str, loop: str, queues: Sequence[str] | None, concurrency: int | None, grace: float | None
) -> Iterator[str]:
    """Describe the worker that is about to run, line by line."""
    settings = app.settings
    listening = queues or settings.queues or sorted({task.options.queue for task in app.tasks.values()})
    missing = "" if loop != "asyncio" or find_spec("uvloop") else " (uvloop is not installed)"
    yield f"taskcore {installed_version()} · python {platform.python_version()} · {loop}{missing} · pid {os.getpid()}"
    yield f"app      {place} · {len(app.tasks)} task{'s' * (len(app.tasks) != 1)}"
    store = f" · store {show('store', settings.store)}" if settings.store else ""
    yield f"broker   {show('url', settings.url)}{store}"
    if settings.url.startswith("memory:"):
        yield "         memory:// ends at this process: jobs that other programs send do not arrive here"
    yield (
        f"queues   {', '.join(listening) or '(none)'} · {concurrency or settings.concurrency} jobs at once"
        f" · grace {show_duration(settings.grace if grace is None else grace)}"
    )
    for number, task in enumerate(sorted(app.tasks.values(), key=lambda task: task.name)):
        yield f"{'' if number else 'tasks':8} {task.name}  {task.contract.signature}"


def farewell(counters: Mapping[str, int], seconds: float) -> str:
    """Count the jobs by how they ended, on one line, without zeros."""
    counts = {word: counters.get(event, 0) for event, word in COUNTED.items()}
    told = " · ".join(f"{count} {word}" for word, count in counts.items() if count or word == "succeeded")
    return f"done: {told} · up {show_duration(round(seconds) or 1)}"
