"""How a server is set up: checks that ``taskcore doctor`` prints and that ``strict`` acts upon.

An adapter that can ask its server for settings offers ``diagnose``. A check names the guarantees that do not hold
because of its finding; a strict app does not start while there is such a check.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

__all__ = [
    "Diagnosis",
    "DiagnosticCheck",
    "HasDiagnostics",
    "Level",
    "clock_check",
    "combined",
    "failed",
    "passed",
    "round_trip_check",
    "warned",
]

Level: TypeAlias = Literal["ok", "warn", "fail"]


class DiagnosticCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One finding about a server.

    :param name: the subject, in one or two words: ``eviction``.
    :param level: ``fail`` if something does not work at all, ``warn`` if it may do harm some day.
    :param text: the finding and its consequence; one sentence.
    :param fix: the remedy.
    :param clauses: the guarantees that do not hold because of it, such as ``("C1",)``; ``strict`` refuses them.
    """

    name: str
    level: Level
    text: str
    fix: str = ""
    clauses: tuple[str, ...] = ()


def passed(name: str, text: str, fix: str = "") -> DiagnosticCheck:
    """Return a finding that needs no action."""
    return DiagnosticCheck(name=name, level="ok", text=text, fix=fix)


def warned(name: str, text: str, fix: str = "", *clauses: str) -> DiagnosticCheck:
    """Return a finding that may do harm some day."""
    return DiagnosticCheck(name=name, level="warn", text=text, fix=fix, clauses=clauses)


def failed(name: str, text: str, fix: str = "", *clauses: str) -> DiagnosticCheck:
    """Return a finding because of which something does not work at all."""
    return DiagnosticCheck(name=name, level="fail", text=text, fix=fix, clauses=clauses)


def clock_check(ahead: float, accuracy: float, *, limit: float, harm: str) -> DiagnosticCheck:
    """Compare the server's clock with ours.

    :param ahead: the seconds by which the server's clock is ahead.
    :param accuracy: the seconds by which that may be wrong.
    :param limit: the seconds that the clocks may differ.
    :param harm: the consequence of a larger difference.
    """
    side = "ahead of" if ahead >= 0 else "behind"
    text = f"the server's clock is {abs(ahead):.3f} s {side} ours (± {accuracy:.3f} s)"
    if abs(ahead) - accuracy <= limit:
        return passed("clock", text)
    return warned("clock", f"{text}; {harm}", "let both use NTP")


def round_trip_check(seconds: Sequence[float], *, slow: float, fix: str) -> DiagnosticCheck:
    """Judge how long the server took to answer some questions; the median above ``slow`` is a warning."""
    middle = statistics.median(seconds)
    text = f"one round trip takes {middle * 1000:.2f} ms"
    if len(seconds) > 1:
        text += f", the slowest of {len(seconds)} took {max(seconds) * 1000:.2f} ms"
    return warned("round trip", text, fix) if middle > slow else passed("round trip", text)


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says about itself.

    :param server: name and version, as people write it: ``Redis 7.0.15``.
    :param durability: what a confirmed job survives with these settings, in one sentence.
    """

    server: str
    durability: str
    checks: tuple[DiagnosticCheck, ...]

    @property
    def unsafe(self) -> tuple[DiagnosticCheck, ...]:
        """The checks because of which some guarantee does not hold."""
        return tuple(check for check in self.checks if check.clauses)


def combined(found: Mapping[str, Diagnosis]) -> Diagnosis:
    """Join the diagnoses of several nodes: a check that differs between nodes names them.

    :param found: the diagnoses by the nodes' addresses; at least one.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    nodes_of: dict[DiagnosticCheck, list[str]] = {}
    for node, diagnosis in found.items():
        for check in diagnosis.checks:
            nodes_of.setdefault(check, []).append(node)
    return Diagnosis(
        server=", ".join(dict.fromkeys(diagnosis.server for diagnosis in found.values())) + f", {len(found)} nodes",
        durability="; ".join(dict.fromkeys(diagnosis.durability for diagnosis in found.values())),
        checks=tuple(
            check
            if len(nodes) == len(found)
            else msgspec.structs.replace(check, text=f"{', '.join(nodes)}: {check.text}")
            for check, nodes in nodes_of.items()
        ),
    )


@runtime_checkable
class HasDiagnostics(Protocol):
    """A backend or store, opened, that can report how its server is set up."""

    async def diagnose(self) -> Diagnosis:
        """Ask the server; a setting that it does not tell (managed services forbid some) is a check named unknown.

        :raises BrokerUnavailable: the server cannot be reached.
        """
        ...
