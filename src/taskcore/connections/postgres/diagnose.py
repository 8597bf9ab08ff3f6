"""How a PostgreSQL server is set up: whether a commit survives, and whether its clock agrees with ours."""

from __future__ import annotations

import time
from typing import Final

from taskcore.connections.postgres.session import Connection
from taskcore.toolkit.diagnostics import (
    Diagnosis,
    DiagnosticCheck,
    clock_check,
    failed,
    passed,
    round_trip_check,
    warned,
)

__all__ = ["diagnose"]

OLDEST: Final = 120_000  #: the first version that is supported, as the server writes it
CLOCK_DIFFERENCE: Final = 5.0  #: seconds that two clocks may differ
CLOCK_HARM: Final = "records expire by the server's clock, deadlines and holds of keys by the machines' clocks"
SLOW_ROUND_TRIP: Final = 0.05  #: seconds

SETTINGS: Final = """SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
    pg_is_in_recovery(), extract(epoch FROM clock_timestamp())::float8"""


async def diagnose(connection: Connection) -> Diagnosis:
    """Ask the server."""
    await connection.execute("SELECT 1")
    began, wall = time.perf_counter(), time.time()
    row = await (await connection.execute(SETTINGS)).fetchone()
    took = time.perf_counter() - began
    if row is None:  # pragma: no cover - a SELECT without FROM has one row
        raise AssertionError("the server answered with no row")
    version, number, synchronous, fsync, pages, standby, clock = row
    checks = (
        passed("version", version)
        if number >= OLDEST
        else failed("version", f"{version} is older than 12", "use PostgreSQL 12 or newer"),
        _commit(synchronous),
        _disk(fsync, pages),
        _role(standby=standby),
        clock_check(clock - wall - took / 2, took / 2, limit=CLOCK_DIFFERENCE, harm=CLOCK_HARM),
        round_trip_check([took], slow=SLOW_ROUND_TRIP, fix="run the app closer to the server: it asks it for each key"),
    )
    unsafe = [check for check in checks if check.clauses]
    return Diagnosis(
        server=f"PostgreSQL {version}",
        durability=unsafe[0].text if unsafe else "a committed record survives a power cut of the server",
        checks=checks,
    )


def _commit(value: str) -> DiagnosticCheck:
    if value != "off":
        return passed("synchronous_commit", f"{value}: a commit is answered when it is on the disk")
    text = "synchronous_commit is off: a crash of the server takes the commits of the last moments"
    fix = "ALTER ROLE … SET synchronous_commit = on, for the role that taskcore uses"
    return warned("synchronous_commit", text, fix, "C1", "C10")


def _disk(fsync: str, pages: str) -> DiagnosticCheck:
    wrong = " and ".join(name for name, value in (("fsync", fsync), ("full_page_writes", pages)) if value != "on")
    if not wrong:
        return passed("disk", "fsync and full_page_writes are on")
    text = f"off: {wrong}; a power cut may destroy the whole database"
    return failed("disk", text, "turn both on in postgresql.conf", "C1", "C10")


def _role(*, standby: bool) -> DiagnosticCheck:
    if not standby:
        return passed("role", "the primary")
    fix = "name the primary in the URL, or add ?target_session_attrs=read-write"
    return failed("role", "a standby: nothing can be written here", fix)
