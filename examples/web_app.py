"""A worker inside a web app, on plain asyncio: the app's lifespan opens and closes it.

$ python examples/web_app.py
202 resize of cat.png accepted
resized cat.png
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskcore import App

tasks = App("memory://")


@tasks.task
async def resize(image: str) -> None:
    await asyncio.sleep(0.01)
    print("resized", image)


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:  # FastAPI and Starlette take it as it is
    async with tasks.running():  # only sending? then `async with tasks:`, and workers elsewhere
        yield


async def upload(image: str) -> tuple[int, str]:  # a request handler
    await resize.enqueue(image)
    return 202, f"resize of {image} accepted"


async def main() -> None:  # stands for the web server
    async with lifespan(None):
        print(*await upload("cat.png"))
        await tasks.drain(timeout=5)


if __name__ == "__main__":
    asyncio.run(main())
