"""Names that Python or a library gives another meaning."""

from __future__ import annotations

import dataclasses
from typing import Any

import attrs
import pytest

from taskcore import App
from taskcore.errors import InvalidContract

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["self", "cls", "args", "kwargs", "task", "options", "key", "payload", "id", "_x"])
async def test_a_parameter_may_have_any_name(name: str) -> None:
    """Names of the library's own parameters do not collide with those of a task."""
    names: dict[str, Any] = {}
    exec(f"def echo({name}: int) -> int:\n    return {name}\n", names)  # the name is what is tested
    app = App("memory://")
    task = app.task(name="echo", key=name)(names["echo"])
    assert task(**{name: 1}) == 1
    async with app.running():
        assert await (await task.enqueue(2)).result(timeout=5) == 2
        assert await (await task.enqueue(**{name: 3})).result(timeout=5) == 3
        assert await (await task.using(delay=0).enqueue(**{name: 4})).result(timeout=5) == 4
        [job] = await app.enqueue_many([task.call(**{name: 5})])
        assert await job.result(timeout=5) == 5


@attrs.define
class Sealed:
    """A class of attrs with a private field, which its __init__ calls ``secret``."""

    _secret: int


@dataclasses.dataclass
class Hidden:
    """The same as a dataclass."""

    _secret: int


@pytest.mark.parametrize("kind", [Sealed, Hidden])
def test_a_required_private_field_is_refused_where_the_task_is_declared(kind: type) -> None:
    """Private fields do not travel, so no call could ever be made."""

    async def work(value: Any) -> None: ...

    work.__annotations__["value"] = kind
    with pytest.raises(InvalidContract, match="private fields do not travel"):
        App("memory://").task(name="work")(work)
