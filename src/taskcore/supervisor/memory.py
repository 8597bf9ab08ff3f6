"""How much memory this process occupies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["can_measure", "occupied"]

STATM = Path("/proc/self/statm")


def can_measure() -> bool:
    """Tell whether the system says how much memory a process occupies."""
    return occupied() > 0


def occupied() -> int:
    """Return the bytes of main memory; on macOS the most that there ever were; 0 where the system does not tell."""
    try:
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError, IndexError):
        pass
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
