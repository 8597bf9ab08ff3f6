"""What `import taskcore` costs: modules are counted, not milliseconds, so a busy machine cannot matter.

A program that declares tasks, or a web server that starts, needs no event loop, no worker, no client library.
"""

from __future__ import annotations

import subprocess
import sys

#: Modules of ours and of other distributions that `import taskcore` loads. It may only fall.
BUDGET = 75

HEAVY = {"asyncio", "concurrent.futures", "difflib", "multiprocessing", "pydantic", "ssl", "tomllib", "trio", "click"}
LATER = {"taskcore.client.client", "taskcore.blocking", "taskcore.worker.worker", "taskcore.backends"}


def loaded(program: str) -> set[str]:
    """Return the modules that a program in a new process has loaded at its end."""
    command = [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=15).stdout.split())


def test_importing_is_cheap():
    """`import taskcore` loads no event loop and no part that only an open app needs, and few modules in all."""
    modules = loaded("import taskcore") - loaded("pass")
    assert not (HEAVY | LATER) & modules
    counted = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert len(counted) <= BUDGET, sorted(counted)


def test_the_budget_is_close():
    """The budget follows what is there: a gap would let new imports in unnoticed."""
    counted = {name for name in loaded("import taskcore") if name.partition(".")[0] not in sys.stdlib_module_names}
    assert BUDGET - len(counted) <= 12


def test_declaring_tasks_needs_no_event_loop():
    """An app with tasks is made without asyncio; it comes with the connection."""
    program = "import taskcore\napp = taskcore.App('memory://')\n@app.task(name='work')\ndef work() -> None: ..."
    assert not {"taskcore.client.client", "taskcore.worker.worker"} & loaded(program)


WORKER = """
import anyio, taskcore
app = taskcore.App('memory://')
@app.task(name='work')
def work() -> int: return 1
async def main():
    async with app.running():
        assert await (await work.enqueue()).result(timeout=5) == 1
anyio.run(main)
"""


def test_a_worker_without_process_tasks_loads_no_processes():
    """The room of process tasks is loaded by the first task that needs it, and by no other worker."""
    modules = loaded(WORKER)
    assert "taskcore.worker.worker" in modules
    assert not {name for name in modules if name.startswith("taskcore.processes")}


def test_the_room_of_processes_may_be_deleted():
    """Without the room everything but process tasks works as before."""
    assert "taskcore.worker.worker" in loaded(f"import sys\nsys.modules['taskcore.processes'] = None\n{WORKER}")
