"""Disks that are soon full: small file systems in memory, where the system lets a test mount them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import run

import psycopg
import pytest

from taskcore.faults import PostgresServer

__all__ = ["fill", "on_disk", "small_disk"]


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount a file system outside of pytest's folders, which a server of another user may not enter."""
    disk = Path(tempfile.mkdtemp(prefix="taskcore-disk-"))
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk]
        if os.geteuid() or run(command, check=False).returncode:
            pytest.skip("a small disk needs root, and the right to mount")
        try:
            disk.chmod(0o755)
            yield disk
        finally:
            run(["umount", "-l", disk], check=True)
    finally:
        disk.rmdir()


def fill(disk: Path, *, but: int = 0) -> Path:
    """Fill the disk with a file that leaves only so many bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - but))
    return filler


def on_disk(server: PostgresServer, disk: Path) -> str:
    """Make a database whose records are on a disk of their own; return its URL."""
    place, owner = disk / "space", server.data.stat()
    place.mkdir()
    os.chown(place, owner.st_uid, owner.st_gid)
    with psycopg.connect(server.url, autocommit=True) as root:
        root.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        root.execute("CREATE DATABASE small TABLESPACE small")
    return f"{server.url.rpartition('/')[0]}/small"
