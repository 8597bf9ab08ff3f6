"""What a PostgreSQL server says about itself: whether a commit survives, and whether its clock is ours."""

from __future__ import annotations

import time
from typing import Final

from taskcore.connections.postgres.connection import Connection
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck

__all__ = ["diagnose"]

OLDEST: Final = 120_000  #: the first version that is supported, as the server writes it
CLOCKS: Final = 5.0  #: seconds that two clocks may differ before it is worth a word
FAR: Final = 0.05  #: seconds for one round trip, from which on it is worth a word

ASK: Final = """SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
    pg_is_in_recovery(), extract(epoch FROM clock_timestamp())::float8"""


async def diagnose(connection: Connection) -> Diagnosis:
    """Ask."""
    await connection.execute("SELECT 1")
    began, wall = time.perf_counter(), time.time()
    row = await (await connection.execute(ASK)).fetchone()
    took = time.perf_counter() - began
    if row is None:  # pragma: no cover - a SELECT without FROM has one row
        raise AssertionError("the server answered with no row")
    version, number, synchronous, fsync, pages, standby, clock = row
    facts = (
        _version(version, number),
        _commit(synchronous),
        _disk(fsync, pages),
        _standby(standby=standby),
        _clocks(clock - wall - took / 2),
        _distance(took),
    )
    unsafe = [fact for fact in facts if fact.clauses]
    return Diagnosis(
        server=f"PostgreSQL {version}",
        durability=unsafe[0].text if unsafe else "a committed record survives a power cut of the server",
        checks=facts,
    )


def _version(version: str, number: int) -> DiagnosticCheck:
    if number >= OLDEST:
        return DiagnosticCheck(name="version", level="ok", text=version)
    return DiagnosticCheck(
        name="version", level="fail", text=f"{version} is older than 12", fix="use PostgreSQL 12 or newer"
    )


def _commit(value: str) -> DiagnosticCheck:
    if value != "off":
        return DiagnosticCheck(
            name="synchronous_commit", level="ok", text=f"{value}: a commit is answered when it is on the disk"
        )
    return DiagnosticCheck(
        name="synchronous_commit",
        level="warn",
        text="synchronous_commit is off: a crash of the server takes the commits of the last moments",
        fix="ALTER ROLE … SET synchronous_commit = on, for the role that taskcore uses",
        clauses=("C1", "C10"),
    )


def _disk(fsync: str, pages: str) -> DiagnosticCheck:
    if (fsync, pages) == ("on", "on"):
        return DiagnosticCheck(name="disk", level="ok", text="fsync and full_page_writes are on")
    wrong = " and ".join(name for name, value in (("fsync", fsync), ("full_page_writes", pages)) if value != "on")
    return DiagnosticCheck(
        name="disk",
        level="fail",
        text=f"off: {wrong}; a power cut may destroy the whole database",
        fix="turn both on in postgresql.conf",
        clauses=("C1", "C10"),
    )


def _standby(*, standby: bool) -> DiagnosticCheck:
    if not standby:
        return DiagnosticCheck(name="role", level="ok", text="the primary")
    return DiagnosticCheck(
        name="role",
        level="fail",
        text="a standby: nothing can be written here",
        fix="name the primary in the URL, or add ?target_session_attrs=read-write",
    )


def _clocks(difference: float) -> DiagnosticCheck:
    text = f"the server's clock is {abs(difference):.3f} s {'ahead of' if difference >= 0 else 'behind'} this machine's"
    if abs(difference) < CLOCKS:
        return DiagnosticCheck(name="clock", level="ok", text=text)
    return DiagnosticCheck(
        name="clock",
        level="warn",
        text=f"{text}; records end by the server's, while deadlines and holds of keys are told by the machines'",
        fix="let both use NTP",
    )


def _distance(took: float) -> DiagnosticCheck:
    text = f"one round trip takes {took * 1000:.1f} ms"
    if took < FAR:
        return DiagnosticCheck(name="round trip", level="ok", text=text)
    return DiagnosticCheck(name="round trip", level="warn", text=f"{text}; each key and each result needs some of them")
