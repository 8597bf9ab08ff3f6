"""``taskcore sql migrate``: makes the tables in a SQL database, or prints the SQL that makes them."""

from __future__ import annotations

from typing import Any

import anyio
import click

from taskcore.adapters import has_store
from taskcore.cli.group import APP_DIR, DEBUG
from taskcore.cli.output import JSON, print_json, print_line, say
from taskcore.config import NO_STORE, load
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.urls import mask_url, scheme_of

__all__ = ["command"]

POSTGRES, SQLITE = ("postgresql", "postgres"), ("sqlite",)


@click.group("sql", short_help="Make or print the tables in a SQL database")
@DEBUG
def command() -> None:
    """Make or print the tables in a SQL database."""


@command.command("migrate")
@click.argument("url", required=False, metavar="[URL]")
@click.option("--dry-run", is_flag=True, help="Print the SQL that is missing there, for a role that may run it.")
@JSON
@APP_DIR
@DEBUG
def migrate(url: str | None, dry_run: bool, as_json: bool, app_dir: str) -> None:
    """Make the tables of queues and records, or bring them up to date.

    URL is a database, for queues and records; without it, the broker and the store that the settings name. An app does
    the same when it opens; this is for databases where its role may not.
    """
    for place, part, found, version, missing in anyio.run(_migrate, _places(url, app_dir), dry_run):
        if as_json:
            done = {"url": place, "part": part, "found": found, "version": version, "sql": missing, "dry_run": dry_run}
            print_json(done)
            continue
        if missing:
            print_line(missing.rstrip())
        told = "up to date" if not missing else "to be made" if dry_run else "made"
        say(f"{place}: the tables of {part} are {told} (found version {found}, newest {version})")


def _places(url: str | None, app_dir: str) -> list[tuple[str, str]]:
    """Return databases and what each of them holds: jobs, records."""
    if url is not None:
        places = [(url, "jobs"), (url, "records")]
    else:
        settings = load(directory=app_dir).settings
        store = settings.store or (settings.url if has_store(settings.url) else NO_STORE)
        places = [(settings.url, "jobs"), (store, "records")]
    found = [(place, part) for place, part in places if scheme_of(place) in {*POSTGRES, *SQLITE}]
    if not found:
        raise click.UsageError("no SQL database is named: give its URL, postgresql://… or sqlite:///…")
    return found


async def _migrate(places: list[tuple[str, str]], dry_run: bool) -> list[tuple[str, str, int, int, str]]:
    done = []
    with unwrap_single():
        for place, part in places:
            schema: Any
            if scheme_of(place) in SQLITE:
                from taskcore.backends.sql.sqlite.layout import JOBS as FILE_JOBS
                from taskcore.connections.sqlite.address import sqlite_address
                from taskcore.connections.sqlite.schema import migrate_file
                from taskcore.stores.sql.sqlite.layout import RECORDS as FILE_RECORDS

                schema = FILE_JOBS if part == "jobs" else FILE_RECORDS
                found, missing = migrate_file(sqlite_address(place), schema, dry_run=dry_run)
            else:
                from taskcore.backends.sql.postgres.layout import JOBS
                from taskcore.connections.postgres.address import postgres_address
                from taskcore.connections.postgres.schema import migrate_schema
                from taskcore.stores.sql.postgres.layout import RECORDS

                schema = JOBS if part == "jobs" else RECORDS
                found, missing = await migrate_schema(postgres_address(place), schema, dry_run=dry_run)
            done.append((mask_url(place), part, found, len(schema.steps), missing))
    return done
