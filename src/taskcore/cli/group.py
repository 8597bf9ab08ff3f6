"""The command ``taskcore``: its subcommands, its exit codes, and how its errors look.

Rules of all commands: results on stdout, everything else on stderr; ``--json`` on every reading command, one object a
line; colours only on a terminal and without NO_COLOR; no traceback without ``--debug``.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import click

from taskcore.cli.output import paint, survive_encodings
from taskcore.errors import (
    AppNotFound,
    BrokerError,
    ContractError,
    FeatureRefused,
    JobError,
    StoreRequired,
    TaskcoreError,
    UnsafeBroker,
)
from taskcore.toolkit.urls import mask_text, mask_url

__all__ = ["APP_DIR", "DEBUG", "Exit", "Shell", "exit_of", "installed_version", "run", "show_error"]


class Exit(IntEnum):
    """Exit codes, for scripts."""

    DONE = 0
    FAILED = 1  #: the job, or a check, failed
    USAGE = 2  #: the command or a setting is wrong
    NO_APP = 3  #: the app cannot be loaded
    NO_BROKER = 4  #: the broker cannot be reached
    REFUSED = 5  #: a contract or a feature of the broker forbids it
    LEAKED = 6  #: a worker has ended because too many of its threads have leaked
    INTERRUPTED = 130  #: Ctrl-C


EXIT_OF: Sequence[tuple[type[TaskcoreError], Exit]] = (
    (AppNotFound, Exit.NO_APP),
    (BrokerError, Exit.NO_BROKER),
    (ContractError, Exit.REFUSED),
    (FeatureRefused, Exit.REFUSED),
    (UnsafeBroker, Exit.REFUSED),
    (StoreRequired, Exit.REFUSED),
    (JobError, Exit.FAILED),
    (TaskcoreError, Exit.USAGE),
)

# Name → the section and the line in the help. Each is `command` in the module of its name, imported when it is used.
COMMANDS = {
    "worker": ("Run", "Run jobs until a signal"),
    "schedules": ("Run", "List, pause, fire and preview schedules"),
    "workflows": ("Run", "List, draw, cancel and replay workflows"),
    "job": ("Run", "Show a job: its outcome, its parents and children"),
    "sql": ("Check", "Make or print the tables in a SQL database"),
    "doctor": ("Check", "Test app, settings, broker, store, versions"),
    "config": ("Check", "Settings, and where each of them came from"),
    "conformance": ("Check", "Which guarantees a broker keeps"),
    "bench": ("Check", "Measure brokers on this machine"),
}

EPILOG = """
\b
Examples:
  taskcore worker shop.tasks:app -q mail -c 8
  taskcore doctor shop.tasks:app
  taskcore config shop.tasks:app --json
  taskcore conformance redis://localhost:6379/15
  taskcore bench --quick
\b
Exit codes: 0 done, 1 the job or a check failed, 2 usage or settings, 3 app cannot be loaded,
4 broker cannot be reached, 5 refused by a contract or the broker,
6 worker with too many leaked threads, 130 interrupted.
"""


class Shell:
    """The state of one run of the command line."""

    debug = False


class Commands(click.Group):
    """The subcommands, by section; listing them imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"taskcore.cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or name the one that was probably meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f', did you mean "{close[0]}"?' if close else f"; there are: {', '.join(COMMANDS)}"
            ctx.fail(f'no command "{args[0]}"{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in their sections."""
        for section in dict.fromkeys(section for section, _ in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, line) for name, (of, line) in COMMANDS.items() if of == section])


def installed_version() -> str:
    """Return the version of taskcore that runs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("taskcore-framework")
    except PackageNotFoundError:  # a checkout that is not installed
        return "(not installed)"


def _show_version(ctx: click.Context) -> None:
    click.echo(f"taskcore {installed_version()}")
    ctx.exit()


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Shell).debug = True


#: for every command: the whole traceback of an error
DEBUG = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)

#: for every command that loads an app
APP_DIR = click.option(
    "--app-dir",
    default=".",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="The directory of the app's module; default: this one.",
)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _show_version(ctx) if value else None,
    help="Show the version.",
)
@DEBUG
def group() -> None:
    """Background tasks with typed contracts, on the broker you have."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    shell = Shell()
    survive_encodings()
    try:
        code: Any = group.main(list(arguments), prog_name="taskcore", standalone_mode=False, obj=shell)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(_without_secrets(text.getvalue(), arguments), err=True, nl=False)
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of the output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Exception as error:  # noqa: BLE001 - its text and the lines of its traceback may hold a password
        return show_error(error, debug=shell.debug)
    return code if isinstance(code, int) else Exit.DONE


def show_error(error: Exception, *, debug: bool) -> Exit:
    """Write an error for people, and return the exit code of a command that ends with it."""
    ours = list(_ours(error))
    if debug or not ours:
        click.echo(mask_text("".join(traceback.format_exception(error))), err=True, nl=False)
    else:
        click.echo("\n".join(dict.fromkeys(_text(one) for one in ours)), err=True)
    return exit_of(ours[0]) if ours else Exit.FAILED


def _without_secrets(message: str, arguments: Sequence[str]) -> str:
    """Mask the arguments that may be URLs in a message of click, which repeats them."""
    for argument in (*arguments, *(given.partition("=")[2] for given in arguments)):
        if "://" in argument or "@" in argument:
            for form in (argument, repr(argument)[1:-1]):
                message = message.replace(form, mask_url(argument))
    return message


def _ours(error: BaseException) -> Iterator[TaskcoreError]:
    """Yield the errors that have a text for people; none if anything else went wrong too."""
    if isinstance(error, TaskcoreError):
        yield error
    elif isinstance(error, BaseExceptionGroup) and error.split(TaskcoreError)[1] is None:
        for inner in error.exceptions:
            yield from _ours(inner)


def exit_of(error: TaskcoreError) -> Exit:
    """Choose the exit code of a command that ends with this error."""
    return next(code for kind, code in EXIT_OF if isinstance(error, kind))


def _text(error: TaskcoreError) -> str:
    head, _, rest = str(error).removeprefix(f"[{error.code}] ").partition("\n")
    label = "error" if error.code == TaskcoreError.code else f"error[{error.code}]"
    return "\n".join(filter(None, [f"{paint(label, 'red', sys.stderr)}: {head}", rest]))
