"""Safety: an app that is strict does not start on a server whose settings break the contract; a worker warns of it.

refuse_unsafe(backend, store)      with ``strict``, when an app is opened: UnsafeBroker (TC502), or nothing
warn_unsafe(backend, store)        without, when a worker starts: one line in the log for each fact
diagnoses(backend, store)          what broker and store say about themselves, as far as they can say anything
"""

from __future__ import annotations

import anyio

from taskcore.errors import BrokerUnavailable, UnsafeBroker
from taskcore.observe import ObservedBackend, ObservedStore
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, HasDiagnostics
from taskcore.toolkit.logging import logger

__all__ = ["diagnoses", "refuse_if_unsafe", "warn_if_unsafe"]

log = logger("taskcore.worker")

DIAGNOSE_TIMEOUT = 10.0  #: seconds that a server may take to say how it is set up


async def diagnoses(backend: object | None, store: object | None) -> dict[str, Diagnosis]:
    """What the ``broker`` and the ``store`` say about themselves; without those that cannot say anything.

    :raises BrokerUnavailable: one of them cannot be reached, or took too long.
    """
    said: dict[str, Diagnosis] = {}
    for role, observed in (("broker", backend), ("store", store)):
        part = observed.inner if isinstance(observed, ObservedBackend | ObservedStore) else observed
        if not isinstance(part, HasDiagnostics):
            continue
        with anyio.move_on_after(DIAGNOSE_TIMEOUT):
            said[role] = await part.diagnose()
        if role not in said:
            raise BrokerUnavailable(f"the {role} did not say within {DIAGNOSE_TIMEOUT:g} s how it is set up")
    return said


async def refuse_if_unsafe(backend: object, store: object | None) -> None:
    """Nothing, if every clause holds with these settings.

    :raises UnsafeBroker: some clauses do not hold; the text has each fact, its clauses and its fix (TC502).
    :raises BrokerUnavailable: nobody can say so now.
    """
    unsafe = _unsafe(await diagnoses(backend, store))
    if not unsafe:
        return
    lines: list[str] = []
    for role, fact in unsafe:
        lines.append(f"{role}, {fact.name} ({', '.join(fact.clauses)}): {fact.text}")
        lines += [f"  fix: {fact.fix}"] if fact.fix else []
    clauses = sorted({clause for _, fact in unsafe for clause in fact.clauses}, key=lambda name: (len(name), name))
    error = UnsafeBroker(
        f"strict: this app does not start here, because {', '.join(clauses)} of the contract would not hold",
        facts=lines,
        fix="change these settings of the server, or strict=False; `taskcore doctor` shows everything",
    )
    error.unsafe = tuple(fact for _, fact in unsafe)
    raise error


async def warn_if_unsafe(backend: object, store: object | None) -> None:
    """One line for each fact because of which a clause does not hold; a server that does not answer stops nobody.

    What is so by design, and nothing to mend, is told as information, and not as a warning.
    """
    try:
        unsafe = _unsafe(await diagnoses(backend, store))
    except BrokerUnavailable as error:
        log.warning("cannot tell whether the settings of broker and store keep the contract: %s", error.what)
        return
    for role, fact in unsafe:
        tell = log.info if fact.level == "ok" else log.warning
        fix = f"; {fact.fix}" if fact.fix else ""
        tell("%s, %s (not kept: %s): %s%s", role, fact.name, ", ".join(fact.clauses), fact.text, fix)


def _unsafe(said: dict[str, Diagnosis]) -> list[tuple[str, DiagnosticCheck]]:
    """Each unsafe fact once, although broker and store may be one server."""
    unsafe: dict[DiagnosticCheck, str] = {}
    for role, diagnosis in said.items():
        for fact in diagnosis.unsafe:
            unsafe.setdefault(fact, role)
    return [(role, fact) for fact, role in unsafe.items()]
