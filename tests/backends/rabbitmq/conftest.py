"""A real node for all modules of tests that only use queues of their own, and a harness on it."""

from __future__ import annotations

import pytest

from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.conformance.harness import Harness
from taskcore.faults import RabbitServer
from tests.support.real import serving, versions
from tests.support.records import shared_store


@pytest.fixture
def anyio_backend():
    """Choose asyncio: the client library knows no other loop."""
    return "asyncio"


def pytest_generate_tests(metafunc):
    """Run the tests that a module names in ``ON_NEWER`` on a newer version, too."""
    sample = getattr(metafunc.module, "ON_NEWER", None)
    if sample is not None and "node" in metafunc.fixturenames:
        arguments = versions(RabbitServer, newer=metafunc.function.__name__ in sample)
        metafunc.parametrize("node", **arguments, indirect=True, scope="module")


@pytest.fixture(scope="module")
def node(request, shared_nodes):
    """Serve a node: of a version if the module names one; for this module alone if it says ``MISTREATS``."""
    version = getattr(request, "param", "")
    if not getattr(request.module, "MISTREATS", False):
        yield shared_nodes(version)
        return
    with serving(RabbitServer, version) as server:
        yield server


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Make connections to one store: the broker has none."""
    return shared_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def make_harness(node, store):
    """Make a harness on the node, with queues that need no age, because the node is not killed."""

    def make(options: str = "min_queue_age=0.1", *, lease: float = 1.0, margin: float = 1.0) -> Harness:
        return Harness(lambda: RabbitBackend(f"{node.url}?{options}"), store, lease=lease, margin=margin)

    return make
