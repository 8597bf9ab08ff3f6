"""Plain tasks that another process can import."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg

from taskcore import Router, current
from taskcore.stores.sql import complete_in

router = Router()


def pay(order: int, url: str) -> str:
    """Pay, and commit the outcome with it."""
    connection: Any = (
        sqlite3.connect(url.removeprefix("sqlite:///"), timeout=5) if url.startswith("sqlite") else psycopg.connect(url)
    )
    try:
        with connection:
            connection.execute(f"INSERT INTO payments VALUES ({order})")
            complete_in(connection, current().completion(f"paid {order}"))
    finally:
        connection.close()
    return "not this"


@router.task(key="order")
def pay_in_thread(order: int, url: str) -> str:
    """Pay in a thread."""
    return pay(order, url)


@router.task(key="order", runs_in="process")
def pay_in_process(order: int, url: str) -> str:
    """Pay in a process of its own."""
    return pay(order, url)
