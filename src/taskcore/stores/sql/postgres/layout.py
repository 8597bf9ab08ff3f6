"""The tables of records in PostgreSQL, from version 12, and the statements of the verbs.

    taskcore_records     key, value, version, ends (a point in time of the server's; NULL: never)
    taskcore_versions    a sequence: the next record's version, never given twice
    taskcore_schema      the version of these tables

A batch is one statement, so one round trip and one commit. Each of its parts compares and sets in one step: PostgreSQL
waits for a row that another transaction changes, reads it again, and only then changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b
from typing import Any, Final

from psycopg.types.numeric import Int8

from taskcore.connections.postgres.schema import PostgresSchema, prepare_schema
from taskcore.connections.postgres.session import Connection
from taskcore.store import ABSENT, ANY, Conflict, Record, Version, Write

__all__ = ["CHANNEL", "FIND", "RECORDS", "hashes_in", "key_hash", "name", "prepare", "read", "write_distinct"]

CHANNEL: Final = "taskcore_records"  #: notifications of new records

TABLES: Final = """\
CREATE TABLE IF NOT EXISTS taskcore_records (
    key text COLLATE "C" PRIMARY KEY, value bytea NOT NULL, version bigint NOT NULL, ends timestamptz);
CREATE INDEX IF NOT EXISTS taskcore_records_ends ON taskcore_records (ends) WHERE ends IS NOT NULL;
CREATE SEQUENCE IF NOT EXISTS taskcore_versions;
SELECT setval('taskcore_versions', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    WHERE NOT EXISTS (SELECT FROM taskcore_records);
"""
RECORDS: Final = PostgresSchema(
    versions="taskcore_schema",
    probe="taskcore_records",
    steps=(TABLES,),
    grants="SELECT, INSERT, UPDATE, DELETE on taskcore_records, SELECT on taskcore_schema, and USAGE on the sequence "
    "taskcore_versions",
)

MAX_KEEP: Final = 100 * 365.25 * 86_400.0  #: seconds; the server's calendar ends somewhere
NEVER: Final = -1.0  #: stands for no end, because an array of numbers has no gaps

FIND: Final = """SELECT key, value, version FROM taskcore_records
    WHERE key = ANY(%s::text[]) AND (ends IS NULL OR ends > clock_timestamp())"""

ENDS: Final = "CASE WHEN keep < 0 THEN NULL ELSE clock_timestamp() + make_interval(secs => keep) END"

#: The kinds of writes: what they expect, and whether they delete.
PUT_ANY, PUT_ABSENT, PUT_VERSION, DELETE_ANY, DELETE_VERSION = range(5)

NONE: Final = 0  #: a version that no record has

INPUT: Final = """SELECT * FROM unnest(%(keys)s::text[], %(values)s::bytea[], %(kinds)s::smallint[],
    %(expects)s::bigint[], %(keeps)s::float8[]) AS input (key, value, kind, expect, keep)"""

#: The statements for the kinds of writes, by name; a batch has the parts that it needs.
PARTS: Final = {
    "changed": f"""UPDATE taskcore_records AS record
    SET value = input.value, version = nextval('taskcore_versions'), ends = {ENDS}
    FROM input
    WHERE kind = {PUT_VERSION} AND record.key = input.key AND record.version = expect
        AND (ends IS NULL OR ends > clock_timestamp())
    RETURNING record.key, record.version""",  # noqa: S608 - constants of this file
    "written": f"""INSERT INTO taskcore_records AS record (key, value, version, ends)
    SELECT key, value, nextval('taskcore_versions'), {ENDS} FROM input WHERE kind = {PUT_ANY} ORDER BY key
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, version = nextval('taskcore_versions'), ends = excluded.ends
    RETURNING record.key, record.version""",  # noqa: S608 - constants of this file
    "begun": f"""INSERT INTO taskcore_records AS record (key, value, version, ends)
    SELECT key, value, nextval('taskcore_versions'), {ENDS} FROM input WHERE kind = {PUT_ABSENT} ORDER BY key
    ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, version = nextval('taskcore_versions'), ends = excluded.ends
    WHERE record.ends <= clock_timestamp()
    RETURNING record.key, record.version""",  # noqa: S608 - constants of this file
    "deleted": f"""DELETE FROM taskcore_records AS record USING input
    WHERE (kind = {DELETE_ANY} OR (kind = {DELETE_VERSION} AND record.version = expect)) AND record.key = input.key
        AND (ends IS NULL OR ends > clock_timestamp())
    RETURNING record.key, record.version""",  # noqa: S608 - constants of this file
}
PART_OF: Final = {
    PUT_ANY: "written",
    PUT_ABSENT: "begun",
    PUT_VERSION: "changed",
    DELETE_ANY: "deleted",
    DELETE_VERSION: "deleted",
}
NOTIFY: Final = f"SELECT pg_notify('{CHANNEL}', %(hashes)s)::text, {NONE}"


@cache
def write_statement(kinds: frozenset[int]) -> bytes:
    """Return one statement for a batch with these kinds of writes."""
    parts = sorted({PART_OF[kind] for kind in kinds})
    body = "".join(f", {part} AS (\n{PARTS[part]}\n)" for part in parts)
    answers = [f"SELECT key, version FROM {part}" for part in parts]  # noqa: S608 - as above
    if parts != ["deleted"]:
        answers.append(NOTIFY)
    return f"WITH input AS (\n{INPUT}\n){body}\n{' UNION ALL '.join(answers)}".encode()


CLEAN: Final = """DELETE FROM taskcore_records WHERE key IN (
    SELECT key FROM taskcore_records WHERE ends <= clock_timestamp() ORDER BY ends LIMIT %s FOR UPDATE SKIP LOCKED)"""

HASH_LENGTH: Final = 8  #: characters


def name(key: str) -> str:
    """Return the key as the table holds it: PostgreSQL's text cannot hold a NUL."""
    return key.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in key or "\\" in key else key


def key_hash(key: str) -> str:
    """Return a short hash of the key, for notifications: one has room for many."""
    return blake2b(key.encode(), digest_size=HASH_LENGTH // 2).hexdigest()


def hashes_in(payload: str) -> list[str]:
    """Return the hashes of keys in a notification."""
    return [payload[start : start + HASH_LENGTH] for start in range(0, len(payload), HASH_LENGTH)]


async def prepare(connection: Connection) -> None:
    """Create the tables, unless they exist.

    :raises BrokerUnavailable: this role may not create them, or they are of a newer version.
    """
    await prepare_schema(connection, RECORDS)


async def read(connection: Connection, keys: Iterable[str]) -> dict[str, Record]:
    """Return the records that exist, by the names of their keys."""
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(FIND, (list(keys),), prepare=True)
        return {key: Record(value, version) for key, value, version in await cursor.fetchall()}


async def write_distinct(connection: Connection, writes: list[Write]) -> list[Version | Conflict]:
    """Carry out writes with distinct keys in one statement; read the records in conflict by a second one."""
    names = [name(write.key) for write in writes]
    async with connection.cursor(binary=True) as cursor:
        columns = _columns(names, writes)
        await cursor.execute(write_statement(frozenset(columns["kinds"])), columns, prepare=True)
        done: dict[str, int] = dict(await cursor.fetchall())
    missed = [one for one in names if one not in done]
    standing = await read(connection, missed) if missed else {}
    return [
        done[one] if one in done else _answer(write, standing.get(one))
        for one, write in zip(names, writes, strict=True)
    ]


def _columns(names: list[str], writes: list[Write]) -> dict[str, Any]:
    return {
        "keys": names,
        "values": [write.value or b"" for write in writes],
        "kinds": [_kind(write) for write in writes],
        # One type for all sizes, so the statement is prepared once.
        "expects": [Int8(write.expect if isinstance(write.expect, int) else NONE) for write in writes],
        "keeps": [NEVER if write.keep is None else min(max(write.keep, 0.0), MAX_KEEP) for write in writes],
        "hashes": "".join(key_hash(one) for one, write in zip(names, writes, strict=True) if write.value is not None),
    }


def _kind(write: Write) -> int:
    if write.value is None:
        return DELETE_ANY if write.expect is ANY else DELETE_VERSION
    if write.expect is ANY:
        return PUT_ANY
    return PUT_ABSENT if write.expect is ABSENT else PUT_VERSION


def _answer(write: Write, standing: Record | None) -> Version | Conflict:
    """Answer a write that was not carried out: deleting a missing record conflicts with a version only."""
    if write.value is None and (write.expect is ANY or (write.expect is ABSENT and standing is None)):
        return ""
    return Conflict(standing)
