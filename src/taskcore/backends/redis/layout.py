"""The keys of a queue, and the scripts that work on them.

Every key carries its queue's name as hash tag, so a queue lives in one slot of a cluster and one script sees all of it:

    tc:{mail}:jobs          stream: ready and leased jobs; its group ``workers`` knows how far it was handed out
             :leases        sorted set: "entry token" of each lease → its end; given back: "entry" → 0
             :redeliveries  hash: entry → times that it was handed out without a verdict
             :schedule      sorted set: job id → due
             :bodies        hash: job id → trail and envelope of a scheduled job
             :places        hash: job id → its entry in the stream, or ``scheduled``
             :ended         set: ids of jobs that ended within the last minute or two
             :ended_before  set: takes turns with it
             :letters       stream: dead letters
             :wake          list with at most one token: wakes one waiting worker
    tc:queues               set: the names of all queues

Times are milliseconds on the server's clock. Only the two sets of ended ids have a time to live: jobs stay until they
end.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from taskcore.connections.redis import Script

__all__ = [
    "ASIDE", "EXTEND", "HEADS", "LOOK", "PEEK", "PLACE", "PUBLISH", "PURGE", "RECEIVE", "SETTLE", "STATS", "QueueKeys",
]  # fmt: skip


def _script(name: str) -> Script:
    folder = files("taskcore.backends.redis")
    entries, text = (folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in ("entries", name))
    shebang, newline, rest = text.partition("\n") if text.startswith("#!") else ("", "", text)
    return Script(shebang + newline + entries + rest)


PUBLISH: Final = _script("publish")
RECEIVE: Final = _script("receive")
LOOK: Final = _script("look")
SETTLE: Final = _script("settle")
EXTEND: Final = _script("extend")
PLACE: Final = _script("place")
PURGE: Final = _script("purge")
STATS: Final = _script("stats")
PEEK: Final = _script("peek")
ASIDE: Final = _script("aside")
HEADS: Final = _script("heads")

UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")
PARTS: Final = (
    "jobs", "leases", "redeliveries", "schedule", "bodies", "places", "ended", "ended_before", "letters", "wake",
)  # fmt: skip


class QueueKeys:
    """The keys of one queue, in the order in which each script takes them."""

    __slots__ = (
        "all", "aside", "extend", "letters", "look", "peek", "place", "publish", "purge", "receive", "settle", "stats",
        "wake",
    )  # fmt: skip

    def __init__(self, prefix: str, queue: str) -> None:
        # Names that the core lets through are safe as they are; any other must not end the tag or meet another key.
        tag = UNSAFE.sub(lambda found: "%" + found[0].encode().hex(), queue)
        keys = {part: f"{prefix}:{{{tag}}}:{part}" for part in PARTS}
        without_sets = {part: key for part, key in keys.items() if part not in {"ended", "ended_before"}}
        self.settle = self.all = tuple(keys.values())
        self.publish = tuple(key for part, key in keys.items() if part not in {"leases", "redeliveries"})
        self.receive = tuple(key for part, key in without_sets.items() if part != "letters")
        self.look = (keys["places"], keys["jobs"], keys["leases"], keys["schedule"])
        self.extend = (keys["leases"],)
        self.aside = (keys["jobs"], keys["leases"])
        self.place = self.purge = tuple(keys[part] for part in PARTS[:7])
        self.stats = (keys["jobs"], keys["leases"], keys["schedule"], keys["letters"])
        self.peek = (keys["jobs"], keys["leases"], keys["schedule"], keys["bodies"])
        self.letters = keys["letters"]
        self.wake = keys["wake"]
