"""What type checkers know about us: everything in tests/typing, right uses and wrong ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/typing").glob("*.py"))


def check(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a checker in the project's folder."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_mypy():
    """Right uses pass mypy --strict; each wrong one is found, or its ignore would be unused."""
    pytest.importorskip("mypy")
    ran = check(sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", *FILES)

    assert ran.returncode == 0, ran.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_basedpyright(tmp_path):
    """basedpyright, which is pyright, accepts the public types and refuses wrong calls."""
    command = Path(sys.executable).with_name("basedpyright")
    if not command.exists() and shutil.which("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    settings = tmp_path / "pyrightconfig.json"
    said = {
        "include": [str(ROOT / "tests/typing")],
        "extraPaths": [str(ROOT / "src")],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
        "reportUnusedCoroutine": "error",
    }
    settings.write_text(json.dumps(said))
    ran = check(
        str(command) if command.exists() else "basedpyright", "--project", str(settings), "--pythonpath", sys.executable
    )

    assert ran.returncode == 0, ran.stdout


def test_a_checker_would_notice():
    """Each file has wrong uses, too; without them nothing would be proved."""
    for file in FILES:
        assert "type: ignore[" in (ROOT / file).read_text(), file
