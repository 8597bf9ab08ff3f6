"""Tables of ours in a database: made and upgraded by the program, or by hand where its role may not."""

from __future__ import annotations

from typing import Final, NamedTuple

from psycopg import errors

from taskcore.connections.postgres.address import PostgresAddress
from taskcore.connections.postgres.session import Connection, PostgresSession
from taskcore.errors import BrokerUnavailable

__all__ = ["PostgresSchema", "migrate_schema", "prepare_schema", "read_version"]

LOCK: Final = 7_310_582_011_944_713  #: advisory lock of the one program that makes tables


class PostgresSchema(NamedTuple):
    """The tables of one part.

    :param versions: the table that holds the version.
    :param probe: a table that is there if the part is.
    :param steps: the SQL that leads to version 1, 2, …; each can be repeated.
    :param grants: what a role needs that does not own the tables.
    """

    versions: str
    probe: str
    steps: tuple[str, ...]
    grants: str

    def sql(self, found: int) -> str:
        """Return the SQL that leads from this version to the newest one; zero: no tables yet."""
        version = len(self.steps)
        make = f"CREATE TABLE IF NOT EXISTS {self.versions} (version integer NOT NULL);\n"
        add = f"INSERT INTO {self.versions} SELECT {version} WHERE NOT EXISTS (SELECT FROM {self.versions});\n"  # noqa: S608 - constants of a part
        raise_ = f"UPDATE {self.versions} SET version = {version} WHERE version < {version};\n"  # noqa: S608 - as above
        return "".join((*self.steps[found:], make, add, raise_))


async def prepare_schema(connection: Connection, schema: PostgresSchema) -> None:
    """Make the tables or bring them up to date, unless they are.

    :raises BrokerUnavailable: this role may not, or they are of a newer version.
    """
    found = await read_version(connection, schema)
    version = len(schema.steps)
    if found < version:
        await _make(connection, schema, found)
        found = await read_version(connection, schema)
    if found > version:
        raise BrokerUnavailable(
            f"the tables in this database are of version {found}, and this taskcore knows {version}",
            fix="install the taskcore that the other programs on this database use",
        )


async def migrate_schema(address: PostgresAddress, schema: PostgresSchema, *, dry_run: bool) -> tuple[int, str]:
    """Make the tables or bring them up to date; return the version that was found, and the SQL that was missing.

    :param dry_run: change nothing.
    :raises BrokerUnavailable: the server cannot be reached, this role may not, or the tables are of a newer version.
    """

    async def migrate(connection: Connection) -> tuple[int, str]:
        found = await read_version(connection, schema)
        if not dry_run or found > len(schema.steps):
            await prepare_schema(connection, schema)
        return found, schema.sql(found) if found < len(schema.steps) else ""

    session = PostgresSession(address)
    try:
        return await session.run(migrate)
    finally:
        session.drop()


async def read_version(connection: Connection, schema: PostgresSchema) -> int:
    """Return the version of the tables; zero if there are none."""
    probe = f"SELECT (SELECT max(version) FROM {schema.versions}), to_regclass('{schema.probe}')::text"  # noqa: S608 - constants of a part
    try:
        async with connection.transaction():  # inside another one an error undoes no more than this
            row = await (await connection.execute(probe.encode())).fetchone()
    except errors.UndefinedTable:
        return 0
    return 0 if row is None or None in row else int(row[0])


async def _make(connection: Connection, schema: PostgresSchema, found: int) -> None:
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            found = await read_version(connection, schema)
            if found < len(schema.steps):
                await connection.execute(schema.sql(found).encode())
    except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
        raise BrokerUnavailable(
            "the tables of taskcore are not in this database, or too old, and this role may not make them: "
            f"{' '.join(str(error).split())}",
            facts=["the SQL to run, by a role that may:", *schema.sql(found).splitlines()],
            fix=f"run it (taskcore sql migrate --dry-run prints it), then grant this role {schema.grants}",
        ) from error
