"""The conformance suite: every promise of the delivery contract, played on any broker. No pytest needed.

certificate = await certify("redis://localhost:6379/15")
print(certificate.report())

clauses.py      the clauses by number          publishing leasing settling scheduling
                                               retrying places                  on the seam of queues
checks.py       Check, and the lists           stores                                          on the seam of records
runner.py       certify(): all checks          letters                                         dead letters
certificate.py  what came of it, readable      dying idempotency                               workers that die
tools crews deaths   what checks share         ending working leaving                              through an app
"""

from __future__ import annotations

from taskcore.testing.conformance import (
    dying,
    ending,
    idempotency,
    leasing,
    leaving,
    letters,
    places,
    publishing,
    retrying,
    scheduling,
    settling,
    stores,
    working,
)
from taskcore.testing.conformance.certificate import Certificate, Finding, Standing
from taskcore.testing.conformance.checks import (
    APP_CHECKS,
    BACKEND_CHECKS,
    LETTER_CHECKS,
    STORE_CHECKS,
    WORKER_CHECKS,
    Broken,
    Check,
    all_checks,
    check,
    must,
)
from taskcore.testing.conformance.clauses import CLAUSES, NOT_PROMISED, Clause
from taskcore.testing.conformance.runner import certify, play

__all__ = [
    "APP_CHECKS",
    "BACKEND_CHECKS",
    "CLAUSES",
    "LETTER_CHECKS",
    "NOT_PROMISED",
    "STORE_CHECKS",
    "THEMES",
    "WORKER_CHECKS",
    "Broken",
    "Certificate",
    "Check",
    "Clause",
    "Finding",
    "Standing",
    "all_checks",
    "certify",
    "check",
    "must",
    "play",
]

#: The files that hold the checks; importing them fills the lists.
THEMES = (
    publishing,
    leasing,
    settling,
    scheduling,
    retrying,
    places,
    stores,
    letters,
    dying,
    idempotency,
    ending,
    working,
    leaving,
)
