"""Certificate: what came of a run of the suite, clause by clause, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from taskcore.backend import Features
from taskcore.conformance.clauses import CLAUSES, NOT_PROMISED

__all__ = ["Certificate", "CheckResult", "Standing"]

#: kept: shown to hold · emulated: it holds, by the adapter's doing and not the broker's · refused: the adapter says
#: that it cannot be had, so a task that needs it is refused at the start · broken: shown not to hold
Standing: TypeAlias = Literal["kept", "emulated", "refused", "broken"]

SIGNS: dict[Standing, str] = {"kept": "●", "emulated": "○", "refused": "–", "broken": "✗"}


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one check.

    :param why: how the promise was broken, or why it was refused; empty otherwise.
    :param seconds: how long the check took.
    """

    check: str
    clauses: tuple[str, ...]
    standing: Standing
    doc: str
    why: str = ""
    seconds: float = 0.0


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker, as it is configured at this address, was shown to keep.

    :param url: the address, without secrets.
    :param store: where records were kept; None: nowhere.
    :param lease: the leases that the checks used, in seconds.
    :param only: what was asked for, if not everything: clauses and names of checks.
    :param latest: the longest by which a delayed job was late, in seconds, if any was measured.
    :param left: what the suite made and could not delete again; empty, or something is wrong with the adapter.
    """

    url: str
    store: str | None
    version: str
    features: Features
    lease: float
    seconds: float
    results: tuple[CheckResult, ...]
    only: tuple[str, ...] = ()
    latest: float | None = None
    left: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.standing == "broken")

    @property
    def is_kept(self) -> bool:
        """Whether nothing was broken and nothing left behind."""
        return not self.broken and not self.left

    def clause(self, number: str) -> tuple[Standing | None, Sequence[CheckResult]]:
        """Return how a clause stands, and the results that it rests on; None: nothing was checked."""
        found = [result for result in self.results if number in result.clauses]
        standings: set[Standing] = {result.standing for result in found}
        order: tuple[Standing, ...] = ("broken", "kept", "emulated", "refused")
        standing: Standing | None = next((one for one in order if one in standings), None)
        if standing == "kept" and "emulated" in standings:
            standing = "emulated"
        return standing, found

    def report(self) -> str:
        """Write the certificate as plain text."""
        return "\n".join(self._lines()) + "\n"

    def json(self) -> bytes:
        """Encode the certificate as one JSON object, with how each clause stands."""
        plain = msgspec.to_builtins(self)
        plain["clauses"] = {number: self.clause(number)[0] for number in CLAUSES}
        plain["kept"] = self.is_kept
        return msgspec.json.encode(plain)

    def _lines(self) -> Iterator[str]:
        features = self.features
        yield f"taskcore {self.version} conformance: {features.broker} at {self.url}"
        yield f"store       {self.store or 'none: keys, results and cancelling are refused'}"
        yield f"durability  {features.durability}"
        yield f"δ           {_delta(features, self.latest)}"
        if self.only:
            yield f"only        {', '.join(self.only)}; nothing is said about the rest"
        yield ""
        shown = [number for number in self.only if number in CLAUSES] or CLAUSES
        for number, clause in CLAUSES.items():
            standing, found = self.clause(number)
            if standing is None or (self.only and number not in shown):
                if not self.only:
                    yield f"  {number:4} {clause.name:16} {'not promised' if number in NOT_PROMISED else 'not checked'}"
                continue
            yield f"{SIGNS[standing]} {number:4} {clause.name:16} {_count(found):28} {clause.means}"
            for result in found:
                if result.standing == "broken":
                    yield f"       ✗ {result.check}: {result.why}"
                elif result.standing == "refused":
                    yield f"       – {result.check}: {result.why}"
        yield ""
        yield from (f"left behind: {one}" for one in self.left)
        broken = f"{len(self.broken)} BROKEN" if self.broken else "nothing broken"
        yield f"{len(self.results)} checks in {self.seconds:.1f} s: {_count(self.results)}; {broken}"
        yield "● kept   ○ kept by emulation   – refused at the start, never skipped in silence   ✗ broken"


def _delta(features: Features, latest: float | None) -> str:
    measured = "not measured" if latest is None else f"measured at most {max(latest, 0.0):.3f} s late, never early"
    if features.delay == "absent":
        return "delays are refused"
    return f"{features.delay_error:g} s is how early or late this broker may be by itself; {measured}"


def _count(results: Sequence[CheckResult]) -> str:
    counts = {standing: sum(result.standing == standing for result in results) for standing in SIGNS}
    return ", ".join(f"{count} {standing}" for standing, count in counts.items() if count)
