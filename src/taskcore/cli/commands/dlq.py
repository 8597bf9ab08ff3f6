"""``taskcore dlq``: list, show, replay, drop, export and import dead letters."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskcore.cli.consent import Consent, with_consent
from taskcore.cli.group import DEBUG, Exit
from taskcore.cli.letter_filter import LetterFilter, with_letters
from taskcore.cli.letter_runs import TOO_OFTEN, ReplayRun, RunTotals, drop_letters, make_plan
from taskcore.cli.numbers import ago, moment
from taskcore.cli.output import JSON, print_json, print_line, print_table, say
from taskcore.cli.target import Target, with_target
from taskcore.errors import LetterNotFound
from taskcore.toolkit.units import duration

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.deadletter import Cause, DeadLetter

__all__ = ["command"]

SHOWN_PROBLEMS = 10


@click.group("dlq", short_help="Dead letters: list, show, replay, drop, export, import")
@DEBUG
def command() -> None:
    """List, show, replay, drop, export and import dead letters: jobs that cannot go on."""


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


@command.command("list")
@click.option("--letters", "each", is_flag=True, help="A line for each letter, not for each cause.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many lines at most.")
@JSON
@with_letters
@with_target
def list_(each: bool, limit: int, as_json: bool, which: LetterFilter, at: Target) -> None:
    """List the causes of dead letters, the commonest first; with --letters the letters."""

    async def causes(app: App) -> list[Cause]:
        found: list[Cause] = []
        for queue in await which.queues_of(app):
            found += await app.dead_letters.causes(queue)
        return found

    async def letters(app: App) -> list[DeadLetter]:
        return await _read(app, which, limit)

    if each:
        _print_letters(at.run(letters), as_json=as_json)
        return
    wanted = [one for one in at.run(causes) if which.cause is None or one.fingerprint.startswith(which.cause)]
    found = [one for one in wanted if which.task in {None, one.task}]
    if as_json:
        for one in found[:limit]:
            print_json(one)
    elif found:
        print_table(("cause", "queue", "task", "letters", "first", "last", "replays", "why"), _rows(found[:limit]))
        print_line(f"{sum(one.letters for one in found):,} letters, {len(found)} causes")
    else:
        print_line("no dead letters")


@command.command()
@click.argument("what", metavar="CAUSE | LETTER | JOB")
@JSON
@with_letters
@with_target
def show(what: str, as_json: bool, which: LetterFilter, at: Target) -> None:
    """Show one letter in full: that of this id, that of this job, or the newest one of this cause."""

    async def find(app: App) -> DeadLetter:
        newest: DeadLetter | None = None
        for queue in await which.queues_of(app):
            async for letter in app.dead_letters.read(queue):
                if what in {letter.id, letter.job_id}:
                    return letter
                if letter.cause.startswith(what) and (newest is None or letter.when >= newest.when):
                    newest = letter
        if newest is None:
            raise LetterNotFound(f"there is no dead letter, job or cause {what}", fix="taskcore dlq list")
        return newest

    letter = at.run(find)
    if as_json:
        print_json(_plain(letter))
    else:
        _print_whole(letter)


@command.command()
@with_letters
@with_target
def export(which: LetterFilter, at: Target) -> None:
    """Print letters as JSON, one a line, with arguments and history; `taskcore dlq import` reads them."""

    async def write(app: App) -> None:
        for queue in await which.queues_of(app):
            async for letter in app.dead_letters.read(queue):
                if which.takes(letter):
                    print_json(_plain(letter))

    at.run(write)


# ── changing ─────────────────────────────────────────────────────────────────────────────────────


@command.command()
@click.option("--rate", metavar="N/s", help="At most so many a second, such as 5/s; default: as fast as possible.")
@click.option("--canary", default=5, show_default=True, type=click.IntRange(0), help="Send so many first; 0: none.")
@click.option("--wait", default="30s", show_default=True, metavar="TIME", help="How long to wait for those.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="An argument in place of the old one.")
@click.option("--again", is_flag=True, help="Take letters too that were replayed three times already.")
@JSON
@with_letters
@with_consent
@with_target
def replay(canary: int, as_json: bool, which: LetterFilter, consent: Consent, at: Target, **options: Any) -> int:
    """Send the jobs of dead letters again, a few first.

    The rest follows when those have succeeded, each with a delay if there is a --rate; the command need not live as
    long as the replay. Letters that were replayed three times are left out. Repeating a command that was interrupted
    sends no job twice where the broker notices repeated ids. The exit code is 7 if some letters could not be replayed,
    or if the first ones failed again.
    """
    which.require_choice()
    rate, wait, again = _rate(options["rate"]), duration(options["wait"]), bool(options["again"])
    changes = dict(_changes(options["changes"]))
    app = at.load()
    plan = at.run(lambda app: make_plan(app, which, replays=True, again=again), app)
    what = f"replay {plan.total:,} jobs from {', '.join(plan.letters) or 'no queue'}{_pace(plan.total, canary, rate)}"
    if plan.left_out:
        say(f"{plan.left_out:,} letters are left out: replayed {TOO_OFTEN} times already (--again), or not a job")
    if not plan.total or not consent.get(app, what):
        return _answer(RunTotals(), as_json=as_json) if not plan.total else Exit.DONE

    async def run(app: App) -> tuple[RunTotals, str]:
        replays = ReplayRun(app, which, rate=rate, changes=changes, again=again)
        queues = list(plan.letters)
        if canary and plan.total > canary:
            first = await replays.send(queues, limit=canary)
            say(f"canary: {len(first)} sent, waiting for them for up to {ago(wait)}")
            if first and (why := await replays.wait_for(first, queues, wait)):
                return replays.totals, why
        await replays.send(queues)
        return replays.totals, ""

    totals, why = at.run(run, app)
    if why:
        say(f"stopped behind the canary: {why}; the other letters stay")
    return _answer(totals, as_json=as_json, failed=bool(why))


@command.command()
@JSON
@with_letters
@with_consent
@with_target
def drop(as_json: bool, which: LetterFilter, consent: Consent, at: Target) -> int:
    """Delete dead letters: nothing brings them back."""
    which.require_choice()
    app = at.load()
    plan = at.run(lambda app: make_plan(app, which, replays=False), app)
    if not consent.get(app, f"delete {plan.total:,} dead letters from {', '.join(plan.letters) or 'no queue'}"):
        return Exit.DONE
    return _answer(at.run(lambda app: drop_letters(app, which, plan), app), as_json=as_json)


@command.command("import")
@click.argument("file", type=click.File("rb"))
@JSON
@with_consent
@with_target
def import_(file: Any, as_json: bool, consent: Consent, at: Target) -> int:
    """Send the jobs of exported letters, as a replay would; FILE may be - for standard input."""
    from taskcore.cli.letter_import import letters_in, send_letters

    letters = letters_in(file.read().splitlines())
    app = at.load()
    if not consent.get(app, f"send {len(letters):,} jobs of exported letters"):
        return Exit.DONE
    return _answer(at.run(lambda app: send_letters(app, letters), app), as_json=as_json)


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────


async def _read(app: App, which: LetterFilter, limit: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    for queue in await which.queues_of(app):
        async for letter in app.dead_letters.read(queue):
            if which.takes(letter):
                found.append(letter)
            if len(found) >= limit:
                return found
    return found


def _rows(causes: Sequence[Cause]) -> list[Sequence[str]]:
    return [
        (
            one.fingerprint,
            one.queue,
            one.task or "-",
            f"{one.letters:,}",
            moment(one.first),
            moment(one.last),
            str(one.replays),
            one.why,
        )
        for one in causes
    ]


def _print_whole(letter: DeadLetter) -> None:
    trail = letter.trail
    for name, text in {
        "letter": letter.id,
        "cause": letter.cause,
        "job": letter.job_id or "(no envelope)",
        "task": letter.task or "-",
        "queue": letter.queue,
        "reason": letter.reason,
        "buried": moment(letter.when),
        "attempts": f"{trail.attempts}, crashes {trail.crashes}, replays {trail.replays}",
        "arguments": bytes(letter.envelope.args).decode() if letter.envelope else letter.raw.decode(errors="replace"),
    }.items():
        print_line(f"{name:10} {text}")
    for error in trail.errors:
        where = f" ({error.where})" if error.where else ""
        print_line(f"{'error':10} {moment(error.when)} attempt {error.attempt}: {error.type}: {error.message}{where}")
    if trail.errors and trail.errors[-1].traceback:
        print_line(trail.errors[-1].traceback)


def _print_letters(letters: Sequence[DeadLetter], *, as_json: bool) -> None:
    if as_json:
        for letter in letters:
            print_json(_plain(letter))
    elif letters:
        rows = [(one.id, one.task or "-", one.cause, moment(one.when), one.reason) for one in letters]
        print_table(("letter", "task", "cause", "buried", "reason"), rows)
    else:
        print_line("no dead letters")


def _plain(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "queue": letter.queue,
        "reason": letter.reason,
        "when": letter.when,
        "cause": letter.cause,
        "envelope": letter.envelope,
        "raw": None if letter.envelope else base64.b64encode(letter.raw).decode(),
        "trail": letter.trail,
    }


def _answer(totals: RunTotals, *, as_json: bool, failed: bool = False) -> int:
    if as_json:
        numbers = {"replayed": totals.replayed, "dropped": totals.dropped, "failed": totals.failed}
        print_json({**numbers, "problems": totals.problems, "jobs": totals.jobs})
    else:
        print_line(f"replayed {totals.replayed:,} · dropped {totals.dropped:,} · failed {totals.failed:,}")
        for problem in totals.problems[:SHOWN_PROBLEMS]:
            say(problem)
    return Exit.PARTLY if failed or totals.failed else Exit.DONE


def _pace(total: int, canary: int, rate: float) -> str:
    if canary and total > canary:
        rest = f", then {total - canary:,}" + (f" at {rate:g}/s ({ago((total - canary) / rate)})" if rate else "")
        return f" (canary {canary} now{rest})"
    return f" at {rate:g}/s ({ago(total / rate)})" if rate else ""


def _rate(text: str | None) -> float:
    """Read a rate; 0: none."""
    if text is None:
        return 0.0
    number, _, unit = text.partition("/")
    seconds = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}.get(unit.strip())
    try:
        rate = float(number) / (seconds or 0.0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{text!r} is not a rate; write 5/s or 300/min", param_hint="--rate")
    return rate


def _changes(given: Sequence[str]) -> list[tuple[str, Any]]:
    """Read changed arguments: JSON if it is any, else text."""
    found: list[tuple[str, Any]] = []
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{one!r} is not NAME=VALUE", param_hint="--set")
        try:
            found.append((name, msgspec.json.decode(text)))
        except msgspec.DecodeError:
            found.append((name, text))
    return found
