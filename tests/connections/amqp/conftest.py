"""The nodes of the RabbitMQ tests."""

from tests.backends.conftest import shared_nodes  # noqa: F401 - a fixture
from tests.backends.rabbitmq.conftest import anyio_backend, make_harness, node, pytest_generate_tests, store  # noqa: F401 - fixtures
