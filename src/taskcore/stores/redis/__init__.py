"""Keyed records in Redis and Valkey."""

from taskcore.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
