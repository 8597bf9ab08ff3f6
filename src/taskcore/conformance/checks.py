"""Check: one guarantee as a function that proves it on a harness.

    @check(BACKEND_CHECKS, "C6", "C1", needs="redeliveries")
    async def the_rule_in_five_words(harness: Harness) -> None:
        ...                 the docstring says the rule in one sentence

It raises :class:`~taskcore.conformance.clauses.ClauseViolated` with a sentence when the guarantee is not kept. It does
not know pytest. The harness deletes everything that a check makes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from taskcore.backend import Features
from taskcore.conformance.clauses import CLAUSES, ClauseViolated
from taskcore.conformance.harness import Harness
from taskcore.toolkit.groups import unwrap_single

__all__ = [
    "APP_CHECKS",
    "BACKEND_CHECKS",
    "LETTER_CHECKS",
    "STORE_CHECKS",
    "WORKER_CHECKS",
    "Check",
    "all_checks",
    "check",
    "require",
]

CheckFunction = Callable[[Harness], Awaitable[None]]


class Check(msgspec.Struct, frozen=True, eq=False):
    """One guarantee that can be checked.

    :param clauses: what it proves, such as ``("C1", "C8")``.
    :param needs: fields of :class:`taskcore.backend.Features`; if one is absent or False, the check has no meaning.
    :param store: whether it needs a store.
    :param doc: the rule, in one sentence.
    """

    name: str
    clauses: tuple[str, ...]
    needs: tuple[str, ...]
    store: bool
    doc: str
    function: CheckFunction

    async def __call__(self, harness: Harness) -> None:
        """Run the check.

        :raises ClauseViolated: the guarantee is not kept.
        """
        with unwrap_single():
            await self.function(harness)

    def refused(self, features: Features, *, has_store: bool) -> str | None:
        """Return why the check has no meaning on such a broker; None if it has."""
        for name in self.needs:
            if getattr(features, name) in {"absent", False}:
                return f"{features.broker} has no {name.replace('_', ' ')}"
        return "there is no store" if self.store and not has_store else None

    def emulated(self, features: Features) -> bool:
        """Return whether the adapter emulates a feature that this check needs."""
        return any(getattr(features, name) == "emulated" for name in self.needs)


BACKEND_CHECKS: Final[list[Check]] = []  #: on the seam: publish, receive, settle, extend, admin
STORE_CHECKS: Final[list[Check]] = []  #: on the other seam: records
LETTER_CHECKS: Final[list[Check]] = []  #: dead letters, on the seam and through an app
WORKER_CHECKS: Final[list[Check]] = []  #: a worker on this broker, dying where it hurts
APP_CHECKS: Final[list[Check]] = []  #: what a program sees


def all_checks() -> list[Check]:
    """Return every check, in the order in which they are written."""
    return [*BACKEND_CHECKS, *STORE_CHECKS, *LETTER_CHECKS, *WORKER_CHECKS, *APP_CHECKS]


def check(
    part: list[Check], *clauses: str, needs: str | Iterable[str] = (), store: bool = False
) -> Callable[[CheckFunction], Check]:
    """Make a function a check of this part of the suite.

    :param clauses: what it proves.
    :param needs: the fields of Features without which it has no meaning.
    :param store: whether it needs a store.
    """
    fields = (needs,) if isinstance(needs, str) else tuple(needs)

    def decorate(function: CheckFunction) -> Check:
        name = getattr(function, "__name__", "")
        doc = (function.__doc__ or "").strip().partition("\n")[0]
        unknown = [clause for clause in clauses if clause not in CLAUSES]
        unknown += [field for field in fields if field not in Features.__struct_fields__]
        if not clauses or not doc or unknown or any(one.name == name for one in all_checks()):
            raise TypeError(f"{name} is not a check: clauses {clauses}, unknown {unknown}, or its name or text")
        made = Check(name, clauses, fields, store, doc, function)
        part.append(made)
        return made

    return decorate


def require(true: object, sentence: str) -> None:
    """Raise ``ClauseViolated`` with this sentence unless ``true`` is true.

    :raises ClauseViolated: it is not.
    """
    if not true:
        raise ClauseViolated(sentence)
