"""Preflight: what has to hold before an app opens, asked by the app and by ``taskcore doctor``.

unmet_needs(tasks, components)        what the tasks need and the app does not have
refuse_if_unmet(tasks, components)    when an app opens: StoreRequired (TC105), or nothing
refuse_if_unsafe(backend, store)      the same with ``strict``: UnsafeBroker (TC502), or nothing
warn_if_unsafe(backend, store)        without ``strict``, when a worker starts: one log line for each unsafe setting
diagnoses(backend, store)             the settings of broker and store, as far as they can read them
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import anyio

from taskcore.components import Components
from taskcore.errors import BrokerUnavailable, StoreRequired, UnsafeBroker
from taskcore.observe import ObservedBackend, ObservedStore
from taskcore.task import Task
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, HasDiagnostics
from taskcore.toolkit.logging import logger

__all__ = ["Need", "diagnoses", "refuse_if_unmet", "refuse_if_unsafe", "unmet_needs", "warn_if_unsafe"]

log = logger("taskcore.worker")

DIAGNOSE_TIMEOUT = 10.0  #: seconds that a server may take to report its settings


class Need(NamedTuple):
    """A need of a task, or of a feature, that an app without a store does not meet; ``task`` is empty for a feature."""

    task: str
    text: str


def unmet_needs(tasks: Iterable[Task[..., Any]], components: Components) -> list[Need]:
    """List the needs because of which an app with these tasks does not open."""
    if components.store is not None:
        return []
    features = components.backend.features
    needs = [Need("", text) for text in components.needs]
    for task in tasks:
        spec, where = task.spec, task.contract.where
        if spec.key is not None:
            needs.append(Need(task.name, f"{task.name} has an idempotency key ({where})"))
        if isinstance(spec.keep_result, float | int):
            needs.append(Need(task.name, f"{task.name} keeps its results ({where})"))
        if isinstance(spec.crashes, int) and features.redeliveries == "absent":
            what = f"{task.name} limits its crashes ({where}), which this broker does not count"
            needs.append(Need(task.name, what))
    return needs


def refuse_if_unmet(tasks: Iterable[Task[..., Any]], components: Components) -> None:
    """Refuse an app that lacks what its tasks need, before the first job meets it.

    :raises StoreRequired: a task needs a store and there is none; the text names each (TC105).
    """
    needs = unmet_needs(tasks, components)
    if needs:
        first, *others = (need.text for need in needs)
        raise StoreRequired(f"{first}, but this app has no store", facts=[f"and {text}" for text in others])


async def diagnoses(backend: object | None, store: object | None) -> dict[str, Diagnosis]:
    """Read the settings of ``broker`` and ``store``; without those that have no diagnostics.

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
            raise BrokerUnavailable(f"the {role} did not report its settings within {DIAGNOSE_TIMEOUT:g} s")
    return said


async def refuse_if_unsafe(backend: object, store: object | None) -> None:
    """Refuse settings with which a guarantee does not hold.

    :raises UnsafeBroker: some guarantees do not hold; the text has each fact, its clauses and its fix (TC502).
    :raises BrokerUnavailable: the settings cannot be read now.
    """
    unsafe = _unsafe(await diagnoses(backend, store))
    if not unsafe:
        return
    lines: list[str] = []
    for role, fact in unsafe:
        lines.append(f"{role}, {fact.name} ({', '.join(fact.clauses)}): {fact.text}")
        lines += [f"  fix: {fact.fix}"] if fact.fix else []
    clauses = sorted({clause for _, fact in unsafe for clause in fact.clauses}, key=lambda name: (len(name), name))
    raise UnsafeBroker(
        f"strict: the app does not open, because {', '.join(clauses)} would not hold",
        facts=lines,
        fix="change these settings of the server, or strict=False; `taskcore doctor` shows everything",
        unsafe=[fact for _, fact in unsafe],
    )


async def warn_if_unsafe(backend: object, store: object | None) -> None:
    """Log one line for each setting with which a guarantee does not hold. A server that does not answer is no obstacle.

    Deliberate trade-offs are logged at INFO, not WARNING.
    """
    try:
        unsafe = _unsafe(await diagnoses(backend, store))
    except BrokerUnavailable as error:
        log.warning("cannot check the settings of broker and store: %s", error.what)
        return
    for role, fact in unsafe:
        write = log.info if fact.level == "ok" else log.warning
        fix = f"; {fact.fix}" if fact.fix else ""
        write("%s, %s (not kept: %s): %s%s", role, fact.name, ", ".join(fact.clauses), fact.text, fix)


def _unsafe(said: dict[str, Diagnosis]) -> list[tuple[str, DiagnosticCheck]]:
    """List each unsafe fact once: broker and store may be one server."""
    unsafe: dict[DiagnosticCheck, str] = {}
    for role, diagnosis in said.items():
        for fact in diagnosis.unsafe:
            unsafe.setdefault(fact, role)
    return [(role, fact) for fact, role in unsafe.items()]
