"""How a SQLite file is set up: whether a commit survives a power cut, and whether its place is safe."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import anyio.to_thread

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.file import SqliteFile, is_writable, sqlite_unavailable, sqlite_version
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, failed, passed, warned

__all__ = ["diagnose"]

#: File systems whose locks and shared memory SQLite cannot rely on, because other machines write there too.
NETWORK = {
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}
MOUNTS = Path("/proc/mounts")


async def diagnose(address: SqliteAddress) -> Diagnosis:
    """Ask by a connection of its own, in a thread.

    :raises BrokerUnavailable: the file cannot be opened, or does not answer in time.
    """
    with anyio.move_on_after(address.timeout):
        return await anyio.to_thread.run_sync(_diagnose, address, abandon_on_cancel=True)
    raise BrokerUnavailable(f"the SQLite file {address.path} did not answer within {address.timeout:g} s")


def _diagnose(address: SqliteAddress) -> Diagnosis:
    file = SqliteFile(address)
    try:
        journal: str = file.connection.execute("PRAGMA journal_mode").fetchone()[0]
    except sqlite3.Error as error:
        raise sqlite_unavailable(error, address) from error
    finally:
        file.close()
    checks = (_synchronous(address), _journal(journal), _place(address.path), _permission(address.path))
    safe = address.synchronous != "normal"
    return Diagnosis(
        server=f"SQLite {sqlite_version()}",
        durability="a committed record survives a power cut" if safe else (
            "a committed record survives a killed process; a power cut takes the last ones"
        ),
        checks=checks,
    )  # fmt: skip


def _synchronous(address: SqliteAddress) -> DiagnosticCheck:
    if address.synchronous != "normal":
        return passed("synchronous", f"{address.synchronous}: each commit is synced to the disk")
    text = "normal: a power cut takes the last commits, so an outcome may be forgotten and its job run again"
    return warned("synchronous", text, "?synchronous=full", "C1", "C10")


def _journal(journal: str) -> DiagnosticCheck:
    if journal == "wal":
        return passed("journal", "wal: readers and writers do not wait for each other")
    text = f"{journal}: readers and writers wait for each other; this file system does not allow wal"
    return warned("journal", text, "put the file on a local disk")


def _place(path: Path) -> DiagnosticCheck:
    kind = _file_system(path)
    if kind is None:
        return passed("place", "unknown: this system does not tell its file systems")
    if kind not in NETWORK:
        return passed("place", f"a local file system ({kind})")
    text = f"a network file system ({kind}): its locks do not keep two machines apart, and the file may be damaged"
    fix = "put it on a local disk, or use PostgreSQL for programs on several machines"
    return failed("place", text, fix, "C1", "C10")


def _file_system(path: Path) -> str | None:
    """Return the kind of the file system that the path is on: that of the longest mount point above it."""
    try:
        mounts = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    above = {str(folder) for folder in (path.resolve(), *path.resolve().parents)}
    found = [(len(mount[1]), number, mount[2]) for number, mount in enumerate(mounts) if mount[1] in above]
    return max(found)[2] if found else None


def _permission(path: Path) -> DiagnosticCheck:
    if is_writable(path):
        return passed("permission", "the file and its folder can be written")
    text = "the file or its folder cannot be written by this process"
    return failed("permission", text, f"let it write {path} and create files in {path.parent}")
