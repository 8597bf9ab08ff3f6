"""Where tasks of asyncio start."""

from __future__ import annotations

import ast
from pathlib import Path

import taskcore

#: Modules that start tasks of asyncio; only the task set should, the others are to adopt it.
STARTERS = {
    "toolkit/tasks.py",
    "backends/rabbitmq/backend.py",
    "backends/rabbitmq/source.py",
    "backends/rabbitmq/topology.py",
    "connections/amqp/connection.py",
    "connections/amqp/transport.py",
}


def _starts(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Attribute | ast.Name)
        and getattr(node, "attr", getattr(node, "id", "")) in {"create_task", "ensure_future"}
        for node in ast.walk(tree)
    )


def test_tasks_start_in_the_task_set_only():
    """No module that is not listed makes a task of asyncio."""
    root = Path(taskcore.__file__).parent
    found = {
        path.relative_to(root).as_posix() for path in root.rglob("*.py") if _starts(ast.parse(path.read_text("utf-8")))
    }
    assert found <= STARTERS
