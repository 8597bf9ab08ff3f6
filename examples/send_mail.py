"""Send mail in the background: the request returns at once, the mail follows.

$ python examples/send_mail.py
signed up: ada@example.org
mail to ada@example.org: Welcome, Ada!
"""

import anyio

from taskcore import App

app = App("memory://")  # in production: App.from_config(), with TASKCORE_URL=redis://…


@app.task(queue="mail", retry=5, timeout=30.0)
async def send_mail(to: str, subject: str) -> None:
    await anyio.sleep(0.01)  # here a program talks to its mail server
    print(f"mail to {to}: {subject}")


async def sign_up(name: str, address: str) -> None:
    await send_mail.enqueue(address, subject=f"Welcome, {name}!")
    print(f"signed up: {address}")


async def main() -> None:
    async with app.running():  # client and worker in one process
        await sign_up("Ada", "ada@example.org")
        await app.drain(timeout=5)


if __name__ == "__main__":
    anyio.run(main)
