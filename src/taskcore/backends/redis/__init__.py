"""Redis Streams: each verb is one Lua script for a whole batch, on the server's clock, in one slot of a cluster."""

from taskcore.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
