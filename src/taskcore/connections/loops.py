"""The event loop that a client library needs."""

from __future__ import annotations

import asyncio

from taskcore.errors import FeatureRefused

__all__ = ["require_asyncio"]


def require_asyncio(scheme: str, library: str) -> None:
    """Refuse at once to run on a loop that is not asyncio's.

    :raises FeatureRefused: the loop is trio's (TC501).
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise FeatureRefused(
            f"{scheme}:// needs asyncio, and this program runs on trio",
            facts=[f"its client library, {library}, knows asyncio only; memory:// and sqlite:// run on both"],
            fix="anyio.run(main) or asyncio.run(main())",
        ) from None
