"""Tables of ours in a file: made by the first program that opens it."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.file import SqliteFile, sqlite_unavailable
from taskcore.errors import BrokerUnavailable

__all__ = ["SqliteSchema", "migrate_file", "prepare_tables", "tables_version"]


class SqliteSchema(NamedTuple):
    """The tables of one part.

    :param versions: the table that holds the version, in its column ``version``.
    :param steps: the statements that lead to version 1, 2, …; each can be repeated, and notes its version.
    """

    versions: str
    steps: tuple[tuple[str, ...], ...]

    def sql(self, found: int) -> str:
        """Return the SQL that leads from this version to the newest one; zero: no tables yet."""
        return "".join(f"{statement};\n" for step in self.steps[found:] for statement in step)


def migrate_file(address: SqliteAddress, schema: SqliteSchema, *, dry_run: bool) -> tuple[int, str]:
    """Make the tables or bring them up to date; return the version that was found, and the SQL that was missing.

    :param dry_run: change nothing, and make no file.
    :raises BrokerUnavailable: the file cannot be used, or its tables are of a newer version.
    """
    if dry_run and not address.path.exists():
        return 0, schema.sql(0)
    file = SqliteFile(address)
    try:
        found = tables_version(file, schema)
        if not dry_run or found > len(schema.steps):
            prepare_tables(file, schema)
    except sqlite3.Error as error:
        raise sqlite_unavailable(error, address) from error
    finally:
        file.close()
    return found, schema.sql(found)


def tables_version(file: SqliteFile, schema: SqliteSchema) -> int:
    """Return the version of the tables; zero if there are none."""
    execute = file.connection.execute
    if execute("SELECT 1 FROM sqlite_master WHERE name = ?", (schema.versions,)).fetchone() is None:
        return 0
    row = execute(f"SELECT max(version) FROM {schema.versions}").fetchone()  # noqa: S608 - a constant of a part
    return int(row[0] or 0)


def prepare_tables(file: SqliteFile, schema: SqliteSchema) -> None:
    """Make the tables or bring them up to date, unless they are.

    :raises BrokerUnavailable: they are of a newer version.
    """
    found, version = tables_version(file, schema), len(schema.steps)
    if found < version:
        connection = file.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for step in schema.steps[tables_version(file, schema) :]:
                for statement in step:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        found = tables_version(file, schema)
    if found > version:
        raise BrokerUnavailable(
            f"the tables in {file.address.path} are of version {found}, and this taskcore knows {version}",
            fix="install the taskcore that the other programs on this file use",
        )
