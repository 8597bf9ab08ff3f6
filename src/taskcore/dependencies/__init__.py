"""Dependencies: what a worker opens for the functions of its tasks, and what the app's lifespan keeps open for all.

    async def get_db(pool: Pool = Depends(get_pool, scope="app")) -> AsyncIterator[Db]:
        async with pool.connection() as db:
            yield db

    @app.task
    async def charge(order: int, db: Db = Depends(get_db)) -> None: …

``depends.py`` is the marker, ``plan.py`` the order in which a task's dependencies are opened, ``wiring.py`` the
function that stands in the contract in place of the task's own: it opens, calls and closes. ``loop.py`` does that in
an event loop, ``plain_functions.py`` in a thread or in a process of its own, ``children.py`` is the side of such a
process. ``lifetimes.py`` says how what is open is closed, ``shared.py`` has what is opened once for a worker,
``hosting.py`` runs a worker inside of its lifespan.

The core does not know this room: its functions look like any others, and a worker that needs it loads it by name.
"""

from taskcore.dependencies.depends import Depends

__all__ = ["Depends"]
