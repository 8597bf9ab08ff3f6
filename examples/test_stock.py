"""Test tasks with the pytest plugin that comes with taskcore.

$ pytest examples/test_stock.py
"""

import pytest

from taskcore import InvalidArguments, Router
from taskcore.testing.plugin import RunningApp

router = Router()
stock = {"tea": 1}


@router.task(name="stock.order", retry=None)
async def order(article: str) -> str:
    stock[article] -= 1
    return f"{article} is on its way"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_wrong_call_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidArguments, match="artikle"):
        order.call(artikle="tea")  # type: ignore[call-arg]


@pytest.mark.anyio
async def test_an_order_is_sent(taskcore_app: RunningApp) -> None:
    async with taskcore_app(router) as app:  # an app in memory, with a running worker
        job = await order.enqueue("tea")
        assert await job.result(timeout=5) == "tea is on its way"
        assert stock["tea"] == 0
        assert app.counters["job.enqueued"] == 1
