"""The keys of a queue, and the scripts that work on them.

Everything of one queue carries its name as hash tag, so it lives in one slot of a cluster and one script sees it all:

    tc:{mail}:s   stream: what is ready or leased, oldest first; group ``w`` knows how far it has been handed out
             :l   sorted set: "entry token" of each lease → when it ends; without a token and 0: given back
             :n   hash: what was handed out without a verdict → how often
             :z   sorted set: job id → when it is due            :b   hash: job id → trail and envelope until then
             :j   hash: job id → its entry in the stream, or ``z``
             :e   :f   sets that take turns: ids of jobs that ended within the last minute or two
             :d   stream: dead letters
             :w   list with at most one element: wakes one of those who wait
    tc:queues     set: the names of all queues

Times are milliseconds on the server's clock. Only ``e`` and ``f`` have a time to live: work stays until it is done.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from taskcore.connections.redis import Script

__all__ = ["EXTEND", "PLACE", "PUBLISH", "PURGE", "RECEIVE", "SETTLE", "STATS", "Keys"]


def _script(name: str) -> Script:
    return Script(files("taskcore.backends.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8"))


PUBLISH: Final = _script("publish")
RECEIVE: Final = _script("receive")
SETTLE: Final = _script("settle")
EXTEND: Final = _script("extend")
PLACE: Final = _script("place")
PURGE: Final = _script("purge")
STATS: Final = _script("stats")

UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Keys:
    """The keys of one queue, as each script wants them."""

    __slots__ = ("all", "extend", "letters", "place", "publish", "purge", "receive", "settle", "stats", "wake")

    def __init__(self, prefix: str, queue: str) -> None:
        # Names that the core lets through are safe as they are; any other must not end the tag or meet another key.
        tag = UNSAFE.sub(lambda found: "%" + found[0].encode().hex(), queue)
        s, l, n, z, b, j, e, f, d, w = (f"{prefix}:{{{tag}}}:{part}" for part in "slnzbjefdw")  # noqa: E741
        self.publish = (s, z, b, j, e, f, d, w)
        self.receive = (s, l, n, z, b, j, w)
        self.settle = self.all = (s, l, n, z, b, j, e, f, d, w)
        self.extend = (l,)
        self.place = self.purge = (s, l, n, z, b, j, e, f)
        self.stats = (s, l, z, d)
        self.letters = d
        self.wake = w
