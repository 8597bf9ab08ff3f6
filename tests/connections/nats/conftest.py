"""The servers of the NATS tests."""

from tests.backends.conftest import nats  # noqa: F401 - a fixture
from tests.backends.nats.conftest import anyio_backend  # noqa: F401 - a fixture
