"""``taskcore send``: sends a job, or one for each line of standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskcore.cli.commands.tasks import task_of
from taskcore.cli.group import Exit
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.cli.target import Target, with_target
from taskcore.contract.codec import first_line
from taskcore.errors import InvalidArguments, ResultTimeout
from taskcore.results import Succeeded
from taskcore.toolkit.units import duration

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.results import JobOutcome
    from taskcore.task import Call, Job, Task

__all__ = ["command"]


@click.command("send", short_help="Send a job")
@click.argument("name", metavar="TASK")
@click.argument("arguments", nargs=-1, metavar="[NAME=TEXT | NAME:=JSON | @FILE]...")
@click.option("--stdin", is_flag=True, help="Send one job for each line of standard input: a JSON object of arguments.")
@click.option("-q", "--queue", metavar="QUEUE", help="Another queue than the task's own.")
@click.option("--delay", metavar="TIME", help="Not before so long from now, such as 1h30m.")
@click.option("--key", metavar="TEXT", help="An idempotency key.")
@click.option("--id", metavar="TEXT", help="An id of your own; sending it again sends nothing new.")
@click.option("--wait", metavar="TIME", help="Wait so long for the result, and print it as JSON; needs a store.")
@JSON
@with_target
def command(
    name: str,
    arguments: tuple[str, ...],
    stdin: bool,
    wait: str | None,
    as_json: bool,
    at: Target,
    **of_the_call: str | None,
) -> int:
    """Send a job of an app's task.

    NAME=TEXT is a text, or JSON where the task does not take a text; NAME:=JSON is always JSON; @FILE is a file with
    a JSON object of arguments. With --wait the exit code is 1 if the job failed or did not end in time.
    """
    if at.url is not None:
        raise click.UsageError("arguments are checked by the code of an app: give --app MODULE:APP")
    given: Any = {name: value for name, value in of_the_call.items() if value is not None}
    if stdin and (arguments or "key" in given or "id" in given or wait is not None):
        raise click.UsageError("--stdin takes all arguments from its lines; --key, --id and --wait are about one job")
    app = at.load()
    task = task_of(app, name)
    within = None if wait is None else duration(wait)
    calls = [_call(task, given, one) for one in (_lines(sys.stdin) if stdin else [_arguments(arguments)])]

    async def ask(app: App) -> tuple[list[Job[Any]], JobOutcome[Any] | None]:
        jobs = await app.enqueue_many(calls)
        try:
            return jobs, await jobs[0].outcome(timeout=within) if within is not None else None
        except ResultTimeout:
            return jobs, None

    jobs, outcome = at.run(ask, app)
    for job in jobs:
        if as_json:
            print_json({"id": job.id, "task": name, "queue": job.queue})
        elif wait is None:
            print_line(f"sent {job.id}  {name} → {job.queue}")
    if wait is None:
        return Exit.DONE
    print_json({"state": "unknown"} if outcome is None else msgspec.to_builtins(outcome, enc_hook=str))
    return Exit.DONE if isinstance(outcome, Succeeded) else Exit.FAILED


def _call(task: Task[..., Any], options: Any, given: Mapping[str, tuple[Any, bool]]) -> Call[Any]:
    """Make the call: texts as they are, or, where the contract refuses them, as the JSON that they may be.

    :raises InvalidArguments: neither fits (TC302).
    """
    configured = task.using(**options)
    try:
        return configured.call(**{name: value for name, (value, _) in given.items()})
    except InvalidArguments as error:
        misfits = {re.split(r"\W", fact, maxsplit=1)[0] for fact in error.facts}  # each fact begins with a parameter
        read = {
            name: _json_in(value) if is_text and name in misfits else value for name, (value, is_text) in given.items()
        }
        try:
            return configured.call(**read)
        except InvalidArguments:
            raise error from None


def _json_in(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _arguments(given: Iterable[str]) -> Mapping[str, tuple[Any, bool]]:
    """Read the arguments of the command line: for each its value, and whether it may also be JSON."""
    found: dict[str, tuple[Any, bool]] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if one.startswith("@"):
            found |= _object(Path(one[1:]).read_bytes() if Path(one[1:]).is_file() else b"", one)
        elif not equals or not name.rstrip(":"):
            raise click.BadParameter(f"{one!r} is not NAME=TEXT, NAME:=JSON or @FILE", param_hint="arguments")
        elif name.endswith(":"):
            try:
                found[name[:-1]] = msgspec.json.decode(value), False
            except msgspec.DecodeError as error:
                raise click.BadParameter(f"{name}= is not JSON: {first_line(error)}", param_hint="arguments") from error
        else:
            found[name] = value, True
    return found


def _lines(lines: Iterable[str]) -> list[Mapping[str, tuple[Any, bool]]]:
    return [_object(line.encode(), f"line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _object(data: bytes, where: str) -> dict[str, tuple[Any, bool]]:
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise click.BadParameter(f"{where} is not a JSON object: {first_line(error)}") from error
    return {name: (value, False) for name, value in found.items()}
