"""Redis and Valkey: from a URL to connections that tell the outcome of a command without doubt."""

from taskcore.connections.redis.address import RedisAddress, RedisOptions, read_url
from taskcore.connections.redis.connection import Command, Script
from taskcore.connections.redis.link import RedisLink
from taskcore.connections.redis.refusals import CommandRefused, ReplyLost

__all__ = ["Command", "CommandRefused", "RedisAddress", "RedisLink", "RedisOptions", "ReplyLost", "Script", "read_url"]
