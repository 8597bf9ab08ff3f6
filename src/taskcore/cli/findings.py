"""Findings of ``taskcore doctor``: a line each, and an exit code for those that failed."""

from __future__ import annotations

import msgspec

from taskcore.cli.group import Exit, exit_of
from taskcore.errors import TaskcoreError
from taskcore.toolkit.diagnostics import Level

__all__ = ["FailedCheck", "Finding", "failed_check"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what was checked, and what was found.

    :param clauses: the guarantees that do not hold because of it.
    """

    level: Level
    name: str
    text: str
    fix: str = ""
    clauses: tuple[str, ...] = ()


class FailedCheck(Finding, frozen=True, kw_only=True):
    """A finding that failed.

    :param exit_code: of the command, if it is the first one.
    """

    exit_code: Exit = Exit.FAILED


def failed_check(name: str, error: TaskcoreError, *more: str) -> FailedCheck:
    """Make the finding of an error; its exit code is that of every command that ends with this error."""
    facts = [fact.strip() for fact in (*error.facts, *more) if fact]
    text = "; ".join((f"[{error.code}] {error.what}", *facts))
    return FailedCheck(level="fail", name=name, text=text, fix=error.fix or "", exit_code=exit_of(error))
