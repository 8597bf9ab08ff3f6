"""The nodes of the RabbitMQ tests."""

from tests.backends.conftest import shared_nodes  # noqa: F401 - a fixture
from tests.backends.rabbitmq.conftest import (  # noqa: F401 - fixtures
    anyio_backend,
    make_harness,
    node,
    pytest_generate_tests,
    store,
)
