"""Shared by all tests: both event loops, and a virtual clock."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "support"))  # what tests share, and what processes of theirs import


def pytest_configure(config: pytest.Config) -> None:
    """Markers of our own."""
    config.addinivalue_line("markers", "virtual: on both loops, with time that passes only when nobody is busy")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every async test runs on asyncio and on trio; marked ``virtual``, under a clock that jumps."""
    if request.node.get_closest_marker("virtual") is None:
        return request.param
    from virtual import options  # noqa: PLC0415 - imported by the tests that need it

    return request.param, options(request.param)


@pytest.fixture
def virtual_time() -> Any:
    """Options for anyio.run under which time passes only when nobody has anything to do."""
    import trio.testing  # noqa: PLC0415 - trio's clock is bound to the moment it is made

    return {"backend": "trio", "backend_options": {"clock": trio.testing.MockClock(autojump_threshold=0)}}
