"""Tasks that close descriptors which are not theirs, in a process of their own."""

from __future__ import annotations

import os

from taskcore import Router

__all__ = ["close_all", "reuse_all", "router"]

router = Router()


@router.task(runs_in="process", timeout=None)
def close_all() -> int:
    """Close every descriptor but the standard ones, as code does that makes a daemon."""
    os.closerange(3, 256)
    return 1


@router.task(runs_in="process", timeout=None)
def reuse_all() -> int:
    """Let files take the numbers of the descriptors that were closed."""
    os.closerange(3, 256)
    return len([os.open(os.devnull, os.O_RDWR) for _ in range(20)])
