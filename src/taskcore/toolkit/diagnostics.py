"""What a broker is really set up to do: facts that ``taskcore doctor`` prints and that ``strict`` acts upon.

An adapter that can ask its server for settings offers ``diagnose``. A fact names the clauses of the contract that do
not hold because of it; with ``strict`` an app does not start while there is one.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

__all__ = ["Diagnosis", "DiagnosticCheck", "HasDiagnostics", "Level"]

Level: TypeAlias = Literal["ok", "warn", "fail"]


class DiagnosticCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    :param name: what was looked at, in one or two words: ``eviction``.
    :param level: ``fail`` if something does not work at all, ``warn`` if it may hurt some day.
    :param text: what was found, and what follows from it; one sentence.
    :param fix: what to do about it.
    :param clauses: the clauses that are not kept because of this, such as ``("C1",)``; what ``strict`` refuses.
    """

    name: str
    level: Level
    text: str
    fix: str = ""
    clauses: tuple[str, ...] = ()


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said about itself.

    :param server: name and version, as people say it: ``Redis 7.0.15``.
    :param durability: what a confirmed job survives with these settings, in one sentence.
    """

    server: str
    durability: str
    checks: tuple[DiagnosticCheck, ...]

    @property
    def unsafe(self) -> tuple[DiagnosticCheck, ...]:
        """The facts because of which some clause does not hold."""
        return tuple(fact for fact in self.checks if fact.clauses)


@runtime_checkable
class HasDiagnostics(Protocol):
    """A backend or store, opened, that can say how its server is set up."""

    async def diagnose(self) -> Diagnosis:
        """Ask the server; what it does not tell (managed services forbid some questions) is a fact called unknown.

        :raises BrokerUnavailable: it cannot be reached.
        """
        ...
