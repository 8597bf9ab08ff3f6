"""``taskcore schedules``: list, explain, pause, resume, fire, preview, backfill and remove schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click
import msgspec

from taskcore.cli.app_commands import APP_OPTION, ID, ask_app, list_by_default
from taskcore.cli.group import APP_DIR, DEBUG
from taskcore.cli.loading import load_app
from taskcore.cli.output import JSON, print_json, print_line, print_table
from taskcore.toolkit.units import show_duration

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.schedules import Schedule

    MomentType = click.ParamType[datetime]
else:
    MomentType = click.ParamType  # older versions of click take no type there

__all__ = ["command"]


class _Moment(MomentType):
    """A date and time with a zone, as ISO 8601 writes it; without a zone it is UTC."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the text."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date and time; write 2027-03-28T02:30 or 2027-03-28T02:30+01:00", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


MOMENT = _Moment()


@click.group("schedules", invoke_without_command=True, short_help="List, pause, fire and preview schedules")
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
@click.pass_context
def command(ctx: click.Context, place: str | None, as_json: bool, app_dir: str) -> None:
    """List, explain, pause, resume, fire, preview, backfill and remove schedules.

    Without a command the schedules are listed.
    """
    list_by_default(ctx, command, place=place, as_json=as_json, app_dir=app_dir)


@command.command("list")
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
def list_(place: str | None, as_json: bool, app_dir: str) -> None:
    """List every schedule of the store and of the app's code: when, which task, and the next instant."""

    async def run(app: App) -> list[Schedule]:
        return [schedule async for schedule in app.schedules.all()]

    schedules = ask_app(place, app_dir, run)
    if as_json:
        for schedule in schedules:
            print_json(_plain(schedule))
        return
    rows = [
        (schedule.id, _state(schedule), schedule.record.call.task, _next(schedule), schedule.explain())
        for schedule in schedules
    ]
    if rows:
        print_table(("schedule", "state", "task", "next", "when"), rows)
    else:
        print_line("no schedules: this app's code declares none, and none is in its store")


@command.command()
@ID
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
def show(id: str, place: str | None, as_json: bool, app_dir: str) -> None:
    """Explain one schedule: its timetable in English, its policies, and what it counted."""

    async def run(app: App) -> tuple[Schedule, str]:
        schedule = await app.schedules.get(id)
        definition = app.schedule.ids.get(id)
        changed = definition is not None and schedule.is_stored and definition.differs(schedule.record)
        return schedule, definition.explain() if definition is not None and changed else ""

    schedule, in_code = ask_app(place, app_dir, run)
    if as_json:
        print_json(_plain(schedule))
        return
    record = schedule.record
    policies = record.policies
    catch_up = f"at most {policies.limit}, none older than {show_duration(policies.within / 1000)}"
    for name, text in {
        "schedule": record.id,
        "state": _state(schedule) + (f" ({note})" if (note := _note(schedule)) else ""),
        "when": schedule.explain() + (f" ({record.timetable.cron})" if record.timetable.cron else ""),
        "next": _next(schedule),
        "task": f"{record.call.task} version {record.call.version}",
        "arguments": bytes(record.call.args).decode(),
        "declared": f"in code{f', release {record.release}' if record.release else ''}"
        if record.origin == "code"
        else "at run time",
        "missed": policies.missed + (f": {catch_up}" if policies.missed == "all" else ""),
        "overlap": policies.overlap,
        "counted": f"{record.fired} fired, {record.missed} missed, {record.overlapped} overlapped, {record.lost} lost",
        "last": _shown(schedule, record.last.at) + f", job {record.last.id}" if record.last else "never",
    }.items():
        print_line(f"{name:10} {text}")
    if in_code:
        print_line(f"{'code':10} this app's code has another definition, which its next worker writes: {in_code}")


@command.command()
@ID
@click.option("--note", default="", metavar="TEXT", help="Why, for those who read it.")
@APP_OPTION
@APP_DIR
@DEBUG
def pause(id: str, note: str, place: str | None, app_dir: str) -> None:
    """Let a schedule fire no more until it is resumed."""
    ask_app(place, app_dir, lambda app: app.schedules.pause(id, note))
    print_line(f"{id} is paused")


@command.command()
@ID
@click.option("--catch-up", is_flag=True, help="Let the instants since the pause count as missed.")
@APP_OPTION
@APP_DIR
@DEBUG
def resume(id: str, catch_up: bool, place: str | None, app_dir: str) -> None:
    """Let a paused schedule fire again, from now on."""
    schedule = ask_app(place, app_dir, lambda app: app.schedules.resume(id, catch_up=catch_up))
    print_line(f"{id} fires again, next at {_next(schedule)}")


@command.command()
@ID
@APP_OPTION
@APP_DIR
@DEBUG
def fire(id: str, place: str | None, app_dir: str) -> None:
    """Send the call of a schedule once, now, beside its timetable."""
    job = ask_app(place, app_dir, lambda app: app.schedules.fire(id))
    print_line(job.id)


@command.command()
@ID
@click.option("-n", "--number", default=5, show_default=True, type=click.IntRange(1, 1_000), help="How many instants.")
@click.option("--after", type=MOMENT, metavar="TIME", help="Begin there; default: after the last one that was decided.")
@APP_OPTION
@JSON
@APP_DIR
@DEBUG
def preview(id: str, number: int, after: datetime | None, place: str | None, as_json: bool, app_dir: str) -> None:
    """Print the next instants of a schedule, in its time zone."""
    schedule = ask_app(place, app_dir, lambda app: app.schedules.get(id))
    for instant in schedule.preview(number, after=after):
        if as_json:
            print_json({"at": instant})
        else:
            print_line(_local(schedule, instant))


@command.command()
@ID
@click.option("--since", required=True, type=MOMENT, metavar="TIME", help="The first instant.")
@click.option("--until", required=True, type=MOMENT, metavar="TIME", help="The last instant.")
@click.option("--label", required=True, metavar="NAME", help="Names this backfill; the same label sends none twice.")
@click.option("--limit", default=1_000, show_default=True, type=click.IntRange(1), help="How many instants at most.")
@APP_OPTION
@APP_DIR
@DEBUG
def backfill(
    id: str, since: datetime, until: datetime, label: str, limit: int, place: str | None, app_dir: str
) -> None:
    """Send the jobs of instants that are over."""
    jobs = ask_app(place, app_dir, lambda app: app.schedules.backfill(id, since, until, label=label, limit=limit))
    print_line(f"{len(jobs)} jobs, one for each instant")


@command.command()
@ID
@APP_OPTION
@APP_DIR
@DEBUG
@click.pass_context
def remove(ctx: click.Context, id: str, place: str | None, app_dir: str) -> None:
    """Delete a schedule; one that code declares comes back with the next worker."""
    if ask_app(place, app_dir, lambda app: app.schedules.remove(id)):
        print_line(f"{id} is removed")
        return
    declared = id in load_app(place, app_dir).schedule.ids
    print_line(f"schedule {id} is only declared in code: remove it there" if declared else f"there is no schedule {id}")
    ctx.exit(1)


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────


def _state(schedule: Schedule) -> str:
    if not schedule.is_stored:
        return "declared"
    if schedule.is_retired:
        return "retired"
    return "paused" if schedule.is_paused else "active" if schedule.preview(1) else "ended"


def _note(schedule: Schedule) -> str:
    return schedule.record.note if schedule.is_stored else "no worker has seen it yet"


def _next(schedule: Schedule) -> str:
    instants = [] if schedule.is_paused or schedule.is_retired else schedule.preview(1)
    return _local(schedule, instants[0]) if instants else "-"


def _shown(schedule: Schedule, instant: int) -> str:
    return _local(schedule, datetime.fromtimestamp(instant / 1000, UTC))


def _local(schedule: Schedule, moment: datetime) -> str:
    return moment.astimezone(ZoneInfo(schedule.record.timetable.tz)).isoformat(sep=" ")


def _plain(schedule: Schedule) -> dict[str, Any]:
    instants = [] if schedule.is_paused or schedule.is_retired else schedule.preview(1)
    when = {"state": _state(schedule), "when": schedule.explain(), "next": instants[0] if instants else None}
    return {**when, **msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(schedule.record)))}
