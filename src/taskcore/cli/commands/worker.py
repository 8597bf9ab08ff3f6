"""``taskcore worker``: run jobs until a signal."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from taskcore.cli.group import APP_DIR, DEBUG, Shell, show_error
from taskcore.cli.loading import is_misnamed, load_app
from taskcore.cli.logs import configure_logging
from taskcore.cli.output import say
from taskcore.errors import AdapterMissing, BrokerUnavailable, InvalidSetting, TaskcoreError
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import duration

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["command"]

log = logger("taskcore.worker")

EXTRA_OF = {"uvloop": "speed", "trio": "trio"}


def _time(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else duration(value)
    except InvalidSetting:
        raise click.BadParameter(f'{value!r} is not a time; give seconds, or text such as "1m30s"') from None


@click.command("worker", short_help="Run jobs until a signal")
@click.argument("app", required=False, metavar="[MODULE:APP]")
@click.option(
    "-q",
    "--queues",
    multiple=True,
    metavar="A,B=N",
    help="Take jobs of these queues only, earlier ones first; with =N at most N of that queue at once, beside -c.",
)
@click.option("-c", "--concurrency", type=click.IntRange(1, 100_000), metavar="N", help="Run this many jobs at once.")
@click.option("--grace", callback=_time, metavar="TIME", help="When stopping, let running jobs go on for this long.")
@click.option(
    "--include", metavar="A,B", help='Import these modules, too, which declare tasks; "shop.*": all in a package.'
)
@click.option(
    "--processes",
    "worker_processes",
    metavar="N|MIN..MAX",
    help="Run so many processes under a supervisor; as many as there is work for, within bounds.",
)
@click.option("--max-jobs", type=int, metavar="N", help="Replace a process after so many jobs.")
@click.option("--max-memory", metavar="SIZE", help="Replace a process that occupies more, such as 512MiB.")
@click.option(
    "--max-leaked-threads",
    type=int,
    metavar="N",
    help="Replace a process with more threads that run functions whose jobs have ended.",
)
@click.option("--health", metavar="HOST:PORT", help="Answer GET /live and /ready there, one port for all processes.")
@click.option("--health-file", metavar="PATH", help="Renew this file every second while the worker is alive.")
@click.option("--reload", is_flag=True, help="For development: restart when a Python file changes.")
@click.option("--drain", is_flag=True, help="End when the queues are empty.")
@click.option("--supervised", hidden=True)
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
def command(loop_name: str, **given: Any) -> int:
    """Run the jobs of an app until SIGTERM or Ctrl-C.

    MODULE:APP is where the app is, such as shop.tasks:app; the settings may name it instead.

    The first Ctrl-C or SIGTERM lets running jobs finish within the grace, the second stops them at once. Either way
    unfinished jobs go back to their queues.
    """
    loop = choose_loop(loop_name)
    app = _load(given)
    from taskcore.cli.banner import banner  # an app that cannot be loaded is reported without all this
    from taskcore.cli.serve import serve
    from taskcore.cli.supervise import supervise
    from taskcore.cli.worker_choices import WorkerChoices

    choices = WorkerChoices.complete(app, loop, given)
    configure_logging(choices.log_level, choices.log_format)
    tell = log.info if choices.log_format == "json" else say
    if choices.supervised is None:
        for line in banner(app, choices, choices.options(app)):
            tell(line)
    try:
        if choices.processes is not None:
            return anyio.run(supervise, app, choices, tell)
        backend = "trio" if loop == "trio" else "asyncio"
        return anyio.run(serve, app, choices, tell, backend=backend, backend_options=loop_options(loop))
    except BrokerUnavailable as error:
        raise error.with_facts(f"the address came from: {app.sources['url']}") from error.__cause__


def _load(given: Mapping[str, Any]) -> App:
    """Load the app; with ``--reload`` tell why its code fails, and wait for a change."""
    try:
        return load_app(given["app"], given["app_dir"], given["include"])
    except TaskcoreError as error:
        if not given["reload"] or is_misnamed(error):
            raise
        from taskcore.supervisor.reload import require_watchfiles, start_again_on_change

        show_error(error, debug=click.get_current_context().ensure_object(Shell).debug)
        require_watchfiles()
        say(f"waiting for a change of the code in {given['app_dir']}. Ctrl-C ends")
        start_again_on_change(Path(given["app_dir"]))


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
