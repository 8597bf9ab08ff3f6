"""The whole conformance suite on real NATS servers: the newest, and one of each kind before it.

2.12    schedules and times to live are the server's        2.10    timers of ours, the server says its time
2.11    times to live are                                   2.9     timers of ours, its time is measured
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from taskcore.conformance import Certificate, Check, all_checks, certify
from taskcore.faults import NatsServer
from tests.support.real import serving

VERSIONS = ("", "2.12", "2.11", "2.10", "2.9")
LEASE, MARGIN = 0.8, 1.0

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version or "newest")
def certificate(request: pytest.FixtureRequest) -> Iterator[Certificate]:
    """Certify a server of this version."""
    with serving(NatsServer, request.param) as server:

        async def main() -> Certificate:
            return await certify(server.url, lease=LEASE, margin=MARGIN, concurrency=20)

        yield anyio.run(main)


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_kept(check: Check, certificate: Certificate) -> None:
    """Each promise is kept, by the server itself or by what we do for it."""
    [finding] = [finding for finding in certificate.results if finding.check == check.name]
    assert (finding.standing in {"kept", "emulated"}, finding.why) == (True, "")


def test_nothing_is_left(certificate: Certificate) -> None:
    """Queues and records of the checks are gone, and no clause is broken."""
    assert (certificate.broken, certificate.left) == ((), ())
