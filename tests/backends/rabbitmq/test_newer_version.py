"""The conformance suite on RabbitMQ 4: every promise that the adapter makes."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from taskcore.conformance import CLAUSES, NOT_PROMISED, certify
from taskcore.faults import RabbitServer
from tests.support.real import NEWER, serving

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("rabbit conformance")]


@pytest.fixture(scope="module")
def node():
    """Serve a node of the newer version."""
    with serving(RabbitServer, NEWER["rabbitmq-server"]) as server:
        yield server


def test_conformance(node, tmp_path):
    """No promise is broken, nothing is left, and each clause that is a promise has been seen to hold."""
    url, store = f"{node.url}?min_queue_age=0.1", f"sqlite:///{tmp_path}/records.db"
    certificate = anyio.run(partial(certify, url, store=store, lease=1.0, margin=2.0, concurrency=8))
    assert {finding.check: finding.why for finding in certificate.broken} == {}
    assert certificate.left == ()
    found = [finding for finding in certificate.results if finding.standing != "refused"]
    assert {clause for finding in found for clause in finding.clauses} == set(CLAUSES) - NOT_PROMISED
