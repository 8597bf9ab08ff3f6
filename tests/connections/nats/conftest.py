"""The servers of the NATS tests."""

from tests.backends.nats.conftest import anyio_backend, nats  # noqa: F401 - fixtures
