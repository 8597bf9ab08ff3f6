"""Run the code blocks of one page of documentation, in order, in a folder of the page's own.

    python tests/support/snippets.py docs/quickstart.md        what each block prints, for the author of the page

``test_docs.py`` explains the conventions and compares; this file only runs. It imports neither pytest nor taskcore, so
one page costs one interpreter.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(
    r"(?P<marks>(?:<!-- *[a-z]+ *-->\s*\n)*)^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
NAME = re.compile(r"# ([\w-]+\.(?:py|toml|json|sh))\b")


@dataclass
class Block:
    """One fenced block, or several that continue each other."""

    language: str
    code: str
    line: int
    marks: set[str] = field(default_factory=set)
    expected: str | None = None

    @property
    def name(self) -> str | None:
        """The file's name, if the first line is a comment with one."""
        found = NAME.match(self.code)
        return found[1] if found else None

    @property
    def runs(self) -> bool:
        """Whether there is anything to run."""
        return self.language in ("python", "sh") or (self.language == "console" and "run" in self.marks)


def blocks_of(text: str) -> list[Block]:
    """Find the blocks of a page; a continued block is joined to the one before, a text block is its output."""
    blocks: list[Block] = []
    last: Block | None = None  # the block that may be continued, or whose output may follow
    for found in BLOCK.finditer(text):
        marks = set(re.findall(r"<!-- *([a-z]+) *-->", found["marks"]))
        block = Block(found["language"], found["code"], text.count("\n", 0, found.start("code")), marks)
        if "continues" in marks and last is not None:
            last.code += "\n" + block.code
            continue
        if block.language == "text" and last is not None:
            last.expected = (last.expected or "") + block.code
            continue
        blocks.append(block)
        last = block if block.runs else None
    return blocks


def steps_of(block: Block) -> list[str]:
    """List the commands of a console block that is run; the rest of it is what they print."""
    return [line.removeprefix("$ ") for line in block.code.splitlines() if line.startswith("$ ")]


def run_block(block: Block, number: int, folder: Path) -> str:
    """Run a block and return what it prints; raise if it fails."""
    path = folder / (block.name or f"block_{number}.py")
    if block.name or block.language == "python":
        path.write_text(block.code)
    if block.language == "console":
        return "".join(f"$ {step}\n{_shell(step, folder, check=False)}" for step in steps_of(block))
    if block.language == "sh":
        return _shell(block.code, folder)
    if path.name.startswith("test_"):
        return _shell(f'"{sys.executable}" -m pytest -q -p no:cacheprovider "{path.name}"', folder)
    return _script(path.name)


def _script(name: str) -> str:
    """Run a script as ``python name`` would, in this process."""
    out, modules = io.StringIO(), set(sys.modules)
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(Path.cwd() / name), run_name="__main__")
    logging.getLogger().handlers.clear()
    for module in set(sys.modules) - modules:
        file = getattr(sys.modules[module], "__file__", None)
        if file and Path(file).parent == Path.cwd():  # the page may write it anew
            del sys.modules[module]
    return out.getvalue()


def _shell(command: str, folder: Path, *, check: bool = True) -> str:
    ran = subprocess.run(
        ["sh", "-euc", command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if check and ran.returncode:
        raise RuntimeError(f"exit code {ran.returncode}\n{ran.stdout}")
    return ran.stdout


def clean_environment() -> dict[str, str]:
    """Return a reader's environment: no settings, the command on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TASKCORE_", "PYTEST_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> None:
    """Print one JSON object for each block that ran; with a page alone, print for people."""
    page = Path(sys.argv[1]).resolve()
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if sys.argv[2:] else temporary) / "shop"  # the folder's name is seen in tracebacks
        folder.mkdir()
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        for number, block in enumerate(blocks_of(page.read_text()), 1):
            if not block.runs:
                if block.name:
                    (folder / block.name).write_text(block.code)
                continue
            error = None
            output = ""
            try:
                output = run_block(block, number, folder)
            except BaseException:  # whatever a block does, the others are run too
                error = traceback.format_exc()
            if sys.argv[2:]:
                print(json.dumps({"line": block.line, "output": output, "error": error}), flush=True)  # noqa: T201 - to test_docs.py
            else:
                print(f"── line {block.line}\n{output}{error or ''}", flush=True)  # noqa: T201 - to the page's author


if __name__ == "__main__":
    main()
