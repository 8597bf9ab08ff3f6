"""What a URL may say about queues, beside what it says about connections."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from taskcore.errors import InvalidURL
from taskcore.toolkit.urls import mask_url

__all__ = ["KNOWN", "Options", "read"]

SETTLE: Final = 4.0  # seconds; a busy node forgot queues of two after SIGKILL
HELD_FOR: Final = 86_400

KNOWN: Final = {
    "queue_type": "quorum (default) or classic",
    "limit": "how many ready jobs a queue holds before it refuses more (no limit)",
    "consumer_timeout": f"seconds for which a job may run before the broker takes it back ({HELD_FOR}; 0: its own)",
    "settle": f"seconds that a new queue has to be there before it gets its first job ({SETTLE:g})",
}


class Options(msgspec.Struct, frozen=True):
    """The same, read and checked."""

    queue_type: Literal["quorum", "classic"] = "quorum"
    limit: int | None = None
    consumer_timeout: int = HELD_FOR
    settle: float = SETTLE


def read(url: str, given: dict[str, str]) -> Options:
    """The options in a URL.

    :raises InvalidURL: one of them has an impossible value (TC103).
    """
    problems: list[str] = []
    kind = given.get("queue_type", "quorum")
    if kind not in {"quorum", "classic"}:
        problems.append(f"queue_type: expected quorum or classic, got {kind!r}")
    limit = _whole("limit", given.get("limit"), 1, problems)
    held = _whole("consumer_timeout", given.get("consumer_timeout", str(HELD_FOR)), 0, problems)
    settle = given.get("settle", str(SETTLE))
    try:
        seconds = float(settle)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 60:  # noqa: PLR2004 - a minute
        problems.append(f"settle: expected seconds from 0 to 60, got {settle!r}")
    if problems:
        raise InvalidURL(
            f"cannot use the URL {mask_url(url)!r}",
            facts=problems,
            fix="amqp://host/vhost?" + "&".join(f"{name}=…" for name in KNOWN),
        )
    return Options("classic" if kind == "classic" else "quorum", limit, held or 0, seconds)


def _whole(name: str, text: str | None, least: int, problems: list[str]) -> int | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit() and least <= int(text) < 1 << 40:
        return int(text)
    problems.append(f"{name}: expected a whole number from {least}, got {text!r}")
    return None
