"""Write the rule book into docs/lifecycle.md: the table stands at the top of lifecycle.py and nowhere else.

    python scripts/lifecycle.py

Run it after a change of the table; a test compares.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lifecycle.md"
PART = re.compile(r"(<!-- table -->\n).*(<!-- end of table -->)", re.DOTALL)


def table() -> str:
    """The table of the docstring, as Markdown."""
    text = ast.get_docstring(ast.parse((ROOT / "src/taskcore/lifecycle.py").read_text())) or ""
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    ruler = next(index for index, line in enumerate(lines) if set(line.strip()) <= {"─", " "})
    starts = [found.start() for found in re.finditer("─+", lines[ruler])]
    rows: list[list[str]] = []
    for line in lines[ruler + 1 :]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if not cells[0] and rows and cells[2] and rows[-1][2].endswith(";"):  # a verdict that needs two lines
            rows[-1][2] += f" {cells[2]}"
            rows[-1][1] += f" {cells[1]}".rstrip()
        else:
            rows.append([cells[0] or rows[-1][0], *cells[1:]])
    rows = [["outcome", "when", "verdict"], ["---"] * 3, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def page() -> str:
    """The page as it should be."""
    return PART.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
