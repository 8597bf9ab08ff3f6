"""Redis and Valkey: from a URL to connections that say plainly what became of a command."""

from taskcore.connections.redis.address import Address, Options, read_url
from taskcore.connections.redis.connection import Command, Denied, Script, Unanswered
from taskcore.connections.redis.link import RedisLink

__all__ = ["Address", "Command", "Denied", "Options", "RedisLink", "Script", "Unanswered", "read_url"]
