"""Redis and Valkey: from a URL to connections that say plainly what became of a command."""

from taskcore.links.redis.address import Address, Options, read_url
from taskcore.links.redis.line import Command, Denied, Script, Unanswered
from taskcore.links.redis.link import RedisLink

__all__ = ["Address", "Command", "Denied", "Options", "RedisLink", "Script", "Unanswered", "read_url"]
