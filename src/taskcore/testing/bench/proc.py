"""What processes cost, from /proc: of a whole group with all that it started, because a server may be several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_of", "folder_size", "has_proc", "memory_of"]

PROC = Path("/proc")
PARENT, GROUP, UTIME, STIME, RSS = 1, 2, 11, 12, 21  #: fields of /proc/…/stat, counted behind the name in parentheses


def has_proc() -> bool:
    """Whether this system tells."""
    return (PROC / "self" / "stat").exists()


def cpu_of(group: int) -> float:
    """Seconds of CPU that the processes of a group have used so far."""
    return sum(int(fields[UTIME]) + int(fields[STIME]) for fields in _group(group)) / os.sysconf("SC_CLK_TCK")


def memory_of(group: int) -> int:
    """Bytes of memory that the processes of a group hold."""
    return sum(int(fields[RSS]) for fields in _group(group)) * os.sysconf("SC_PAGE_SIZE")


def folder_size(folder: Path) -> int:
    """Bytes that the files below a folder take up."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_blocks * 512 if file.is_file() else 0
        except FileNotFoundError:  # servers replace their files
            continue
    return total


def _group(group: int) -> Iterator[list[str]]:
    """The processes of a group, and those that they started in groups of their own."""
    found: dict[int, list[str]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
    family = {pid for pid, fields in found.items() if int(fields[GROUP]) == group}
    while more := {pid for pid, fields in found.items() if pid not in family and int(fields[PARENT]) in family}:
        family |= more
    yield from (found[pid] for pid in family)
