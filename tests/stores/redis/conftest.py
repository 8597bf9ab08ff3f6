"""The servers of the Redis tests."""

from tests.backends.conftest import shared  # noqa: F401 - a fixture
from tests.backends.redis.conftest import anyio_backend, own  # noqa: F401 - fixtures
