"""The conformance suite: every guarantee, checked on any broker. It needs no pytest.

certificate = await certify("redis://localhost:6379/15")
print(certificate.report())

clauses.py      the guarantees by number
checks.py       Check, and the lists of checks
guarantees/     the checks themselves, one file a subject
runner.py       certify(): all checks on one broker
certificate.py  the findings, readable for people and machines
harness.py      where checks run: a broker, names of its own, a way to let time pass
step_worker.py  a worker that does one thing at a time, when told
checking/       histories of calls and runs, and the checker that reads them
model/          random steps beside a model of the rules
crash_sweep/    every operation, crashed at every point
"""

from __future__ import annotations

from taskcore.conformance.certificate import Certificate, CheckResult, Standing
from taskcore.conformance.checks import (
    APP_CHECKS,
    BACKEND_CHECKS,
    LETTER_CHECKS,
    STORE_CHECKS,
    WORKER_CHECKS,
    Check,
    all_checks,
    check,
    require,
)
from taskcore.conformance.clauses import CLAUSES, NOT_PROMISED, Clause, ClauseViolated
from taskcore.conformance.guarantees import (
    asking,
    at_most_once,
    crashes,
    dead_letters,
    delays,
    hostile_records,
    idempotency,
    leases,
    letter_walks,
    locating,
    outcomes,
    publishing,
    retries,
    settling,
    stopping,
    stores,
    worker,
)
from taskcore.conformance.runner import certify, run_check

__all__ = [
    "APP_CHECKS",
    "BACKEND_CHECKS",
    "CLAUSES",
    "LETTER_CHECKS",
    "NOT_PROMISED",
    "STORE_CHECKS",
    "THEMES",
    "WORKER_CHECKS",
    "Certificate",
    "Check",
    "CheckResult",
    "Clause",
    "ClauseViolated",
    "Standing",
    "all_checks",
    "certify",
    "check",
    "require",
    "run_check",
]

#: The files that hold the checks; importing them fills the lists.
THEMES = (
    publishing,
    leases,
    settling,
    delays,
    retries,
    locating,
    stores,
    hostile_records,
    dead_letters,
    letter_walks,
    crashes,
    at_most_once,
    idempotency,
    outcomes,
    asking,
    worker,
    stopping,
)
