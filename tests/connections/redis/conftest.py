"""The servers of the Redis tests."""

from tests.backends.redis.conftest import anyio_backend, own, shared  # noqa: F401 - fixtures
