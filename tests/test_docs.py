"""Every page of the documentation does what it says.

Each page gets a folder and a process of its own, in which its blocks run in order. The conventions:

    ```python        runs as a script; ```sh runs with `sh -eu`
    ```text          behind one of these: what it printed. Else it is a drawing, and nothing is done with it.
                     "…" stands for anything within a line, a line of its own "…" for any number of lines.
    ```toml ```json  has to parse; settings have to be settings of ours
    ```console       is for reading, unless <!-- run --> stands above it: then its "$ " lines are run and compared
    # name.py        as the first line: the block is a file of that name, which later blocks of the page can use;
                     a file called test_… is run by pytest
    <!-- continues -->  above a block: it goes on where the one before ended, in the same script
"""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import runpy
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import taskcore
from taskcore import config, errors
from tests.support import snippets
from tests.support.house import FEATURES

ROOT = Path(__file__).parents[1]
if not (ROOT / "docs").is_dir():
    pytest.skip("a source distribution has no documentation", allow_module_level=True)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [*(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")), *ROOT.glob("examples/**/*.md")]
PAGE_TIMEOUT = 50  #: seconds that one page may take; those that run pytest three times need them on a busy machine


def name_of(page: Path) -> str:
    """Return the path of a page, for the test's name."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: str) -> str:
    """Return the text of a page of docs/."""
    return (ROOT / "docs" / page).read_text()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def pattern(expected: str) -> re.Pattern[str]:
    """Return the pattern that the output must match."""
    lines = []
    for line in expected.rstrip().splitlines():
        anything = r"(?:.*\n)*?" if line == "…" else None
        lines.append(anything or ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r" *\n")
    return re.compile("".join(lines))


# ── the blocks ───────────────────────────────────────────────────────────────────────────────────


@every_page
@pytest.mark.timeout(60)
def test_blocks_run_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """The code of a page runs and prints the output that the page shows."""
    blocks = {block.line: block for block in snippets.blocks_of(page.read_text()) if block.runs}
    if not blocks:
        return
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", snippets.__file__, page, tmp_path],
        capture_output=True,
        encoding="utf-8",
        timeout=PAGE_TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    results: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(results) == len(blocks)
    for result in results:
        where, block = f"{name_of(page)}:{result['line']}", blocks[result["line"]]
        assert not result["error"], f"{where} failed\n{result['error']}\n{ran.stderr}"
        expected = block.code if block.language == "console" else block.expected
        if expected is not None:
            output = result["output"].rstrip() + "\n"
            assert pattern(expected).fullmatch(output), f"{where} printed\n{output}\nand not\n{expected}"


@every_page
def test_configuration_blocks_are_valid(page: Path) -> None:
    """TOML and JSON on a page parse, and settings exist."""
    for block in snippets.blocks_of(page.read_text()):
        if block.language == "json":
            json.loads(block.code)
        if block.language == "toml":
            content = tomllib.loads(block.code)
            ours = content if block.name == "taskcore.toml" else content.get("tool", {}).get("taskcore", {})
            config.load(arguments=ours, environ={}, directory="/")


@every_page
def test_every_block_says_its_language(page: Path) -> None:
    """A fence without a language would be neither coloured nor checked."""
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "sh", "console", "text", "toml", "json", "ini"}, f"in {name_of(page)}"
    assert not any(fences[1::2]), f"an open fence in {name_of(page)}"


# ── links ────────────────────────────────────────────────────────────────────────────────────────


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file that exists, and a heading that is in it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}, which has no such heading"
        if page.is_relative_to(ROOT / "docs"):
            assert target.is_relative_to(ROOT / "docs"), f"{name_of(page)} links to {link}, which no site will have"


def test_the_site_has_every_page() -> None:
    """Each page is in the navigation."""
    nav = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(nav) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:])


def test_the_readme_names_every_extra() -> None:
    """The table of extras has each one that a user can need."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(
        r"^\| (`.*`) \| ", (ROOT / "README.md").read_text().partition("## What it gives you")[0], re.MULTILINE
    )
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(extras) - {"all"}


# ── pages that tell what the code says ───────────────────────────────────────────────────────────


def codes() -> dict[str, type[errors.TaskcoreError]]:
    """Find every error class that has a code of its own."""
    classes = [getattr(errors, name) for name in errors.__all__]
    return {cls.code: cls for cls in classes if "code" in vars(cls)}


INSTALLS = re.compile(r"""(?:pip install|uv add) +["']([\w./-]+)\[([\w,{}]+)\]["']""")


def test_every_install_command_names_the_distribution() -> None:
    """Each command that installs an extra names the distribution, or a checkout, and an extra that exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*PAGES, *OTHERS, *Path(taskcore.__file__).parent.rglob("*.py")]
    commands = {(path.name, *found) for path in texts for found in INSTALLS.findall(path.read_text())}
    assert {"README.md", "redis.md", "nats.md", "rabbitmq.md", "adapters.py", "main.py", "clock.py"} <= {
        file for file, _, _ in commands
    }
    for file, name, extras in commands:
        assert name in {project["name"], ".", "./taskcore"}, file
        assert extras == "{extra}" or set(extras.split(",")) <= project["optional-dependencies"].keys(), file


def test_the_install_command_works_without_a_release() -> None:
    """An installed taskcore satisfies the command in the error texts; pip asks no index for it."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--dry-run"]
    printed = subprocess.check_output([*command, "taskcore-framework[redis]"], text=True, timeout=50)
    assert "already satisfied: taskcore-framework" in printed


def test_the_errors_page_has_every_code() -> None:
    """One heading for each code, in order, and below it the class and the builtin that it derives from."""
    page = text_of("reference/errors.md")
    sections = re.findall(r"^## (TC\d{3})\n\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert [code for code, _ in sections] == sorted(codes())
    for code, section in sections:
        cls = codes()[code]
        if cls is not errors.TaskcoreError:
            builtin = next(base for base in cls.__mro__ if base.__module__ == "builtins")
            assert section.startswith(f"**`{cls.__name__}`** (`{builtin.__name__}`): "), code


def test_the_errors_page_lists_every_name_at_its_top() -> None:
    """The first table has one row for each code: a link, the class, and the sentence that begins its entry."""
    page = text_of("reference/errors.md")
    rows = re.findall(r"^\| \[(TC\d{3})\]\(#(tc\d{3})\) \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    sentences = dict(re.findall(r"^## (TC\d{3})\n\n\*\*`\w+`\*\* \(`\w+`\): (.*?)\.?$", page, re.MULTILINE))
    assert rows == [(code, code.lower(), cls.__name__, sentences[code]) for code, cls in sorted(codes().items())]


def test_reserved_codes_are_those_that_nothing_raises() -> None:
    """A code is reserved on the page if and only if no code raises it."""
    calls: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        calls |= {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    unused = {code for code, cls in codes().items() if cls.__name__ not in calls}
    page = text_of("reference/errors.md")
    reserved = set(re.findall(r"^## (TC\d{3})\n\n[^\n]*\n\nReserved: ", page, re.MULTILINE))
    assert reserved == unused


def test_the_settings_page_has_every_setting() -> None:
    """Each setting with its variable and its default, as `taskcore config` prints them."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| `(TASKCORE_\w+)` \| (.*?) \|", text_of("reference/configuration.md"), re.MULTILINE
    )
    loaded = config.load(environ={}, directory="/")
    expected = {}
    for name in loaded.sources:
        value: Any = loaded.settings
        for part in name.split("."):
            value = getattr(value, part)
        expected[name] = ("TASKCORE_" + name.upper().replace(".", "_"), config.show(name, value))
    assert {name: (variable, default.strip("`")) for name, variable, default in rows} == expected
    assert len(rows) == len(expected)


def test_the_events_page_has_every_event() -> None:
    """Each name in the table at the top of observe.py has its row, and no other name has one."""
    text = ast.get_docstring(ast.parse((ROOT / "src/taskcore/observe.py").read_text())) or ""
    table = " ".join(line for line in text.splitlines() if line.startswith("    ") and "." in line)
    names = re.findall(r"\b[a-z]+(?:\.[a-z_]+)?\.(?:[a-z]+|\*)(?=\s|$)", table)
    expected = chain.from_iterable(
        (name[:-1] + "complete", name[:-1] + "failed") if name.endswith("*") else (name,) for name in names
    )
    rows = re.findall(r"^\| (`.*?`) \|", text_of("reference/events.md"), re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+\.[\w.]+)`", row)]
    assert sorted(documented) == sorted(expected)


def test_the_envelope_page_has_every_field() -> None:
    """Each field of envelope and trail, and which of them are required."""
    from taskcore.envelope import Envelope, ErrorRecord, Trail  # noqa: PLC0415 - for this test only

    envelope, trail = text_of("reference/envelope.md").split("## The trail")
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \|", envelope, re.MULTILINE))
    required = {field.name: field.required for field in msgspec.structs.fields(Envelope)}
    assert {name: word == "required" for name, word in rows.items()} == required
    assert re.findall(r"^\| `(\w+)` \|", trail, re.MULTILINE) == list(Trail.__struct_fields__)
    assert all(f"`{name}`" in trail for name in ErrorRecord.__struct_fields__)


def test_the_schedules_page_has_the_policies() -> None:
    """The tables are those of the deciding function, and name each policy; `scripts/docs-write` writes them."""
    script = runpy.run_path(str(ROOT / "scripts" / "docs_write.py"))
    assert script["schedules_page"]() == script["SCHEDULES"].read_text()
    from taskcore.schedules.record import Missed, Overlap  # noqa: PLC0415 - for this test only

    tables = script["tables"]("schedules/decide.py", "missed", "overlap", "state")
    for name, policies in (("missed", Missed), ("overlap", Overlap)):
        assert re.findall(r"^\| (\w+) \|", tables[name], re.MULTILINE) == list(get_args(policies))


def test_the_lifecycle_page_has_the_rule_book() -> None:
    """The table is that of lifecycle.py; `scripts/docs-write` writes it."""
    script = runpy.run_path(str(ROOT / "scripts" / "docs_write.py"))
    assert script["lifecycle_page"]() == script["LIFECYCLE"].read_text()
    outcomes = re.findall(
        r"^    (?:([A-Z]\w+)(?:\([\w, ]+\))?)(?: · ([A-Z]\w+))?\s", lifecycle_docstring(), re.MULTILINE
    )
    from taskcore import lifecycle  # noqa: PLC0415 - for this test only

    documented = {name for name in chain.from_iterable(outcomes) if name}
    assert {cls.__name__ for cls in lifecycle.Outcome.__args__} <= documented


def lifecycle_docstring() -> str:
    """Return the text at the top of lifecycle.py."""
    return ast.get_docstring(ast.parse((ROOT / "src/taskcore/lifecycle.py").read_text()), clean=False) or ""


def test_the_upgrade_notes_name_what_exists() -> None:
    """In a row from old to new, the new name can be imported and the old one cannot."""
    rows = re.findall(r"^\| `(taskcore\.[\w.]+)`.*? \| `(taskcore\.[\w.]+)` \|$", text_of("upgrading.md"), re.MULTILINE)
    assert rows
    for old, new in rows:
        assert exists(new), f"{new} does not exist"
        assert not exists(old), f"{old} still exists"


def exists(name: str) -> bool:
    """Tell whether a dotted name of a module, or of something in it, can be resolved."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


MODULES = (
    "backend",
    "config",
    "conformance",
    "conformance.checking",
    "deadletter",
    "envelope",
    "errors",
    "faults",
    "lifecycle",
    "middleware",
    "observe",
    "policy",
    "results",
    "store",
    "testing.clock",
    "testing.plugin",
    "toolkit.diagnostics",
)
CLASSES = (
    "blocking.events.SyncEventStream",
    "blocking.SyncApp",
    "blocking.SyncDeadLetters",
    "blocking.progress.SyncLogReader",
    "blocking.progress.SyncProgressReader",
    "blocking.schedules.SyncSchedule",
    "blocking.schedules.SyncSchedules",
    "blocking.workflows.SyncRun",
    "blocking.workflows.SyncWorkflows",
    "events.EventStream",
    "events.JobEvent",
    "events.Subscribe",
    "options.UsingOptions",
    "progress.AsyncTracked",
    "progress.JobLog",
    "progress.JobLogHandler",
    "progress.JobLogLine",
    "progress.JobProgress",
    "progress.LogReader",
    "progress.Progress",
    "progress.ProgressReader",
    "progress.ReadLog",
    "progress.ReadProgress",
    "progress.StartProgress",
    "progress.Tracked",
    "progress.WriteLog",
    "router.TaskOptions",
    "schedules.Declarations",
    "schedules.Schedule",
    "schedules.ScheduleExists",
    "schedules.ScheduleNotFound",
    "schedules.ScheduleOptions",
    "schedules.Schedules",
    "schedules.Tick",
    "schedules.Timing",
    "workflows.Batch",
    "workflows.BatchClosed",
    "workflows.BatchOptions",
    "workflows.BatchProgress",
    "workflows.Chain",
    "workflows.ChildFailure",
    "workflows.ChildJob",
    "workflows.ChildValue",
    "workflows.Compensation",
    "workflows.FirstOf",
    "workflows.InvalidWorkflow",
    "workflows.JobFamily",
    "workflows.MapStep",
    "workflows.ParentWorkflow",
    "workflows.Run",
    "workflows.Step",
    "workflows.StepState",
    "workflows.Workflow",
    "workflows.WorkflowExists",
    "workflows.WorkflowNotFound",
    "workflows.WorkflowOptions",
    "workflows.WorkflowProgress",
    "workflows.WorkflowState",
    "workflows.Workflows",
    "workflows.continue_with",
    "workflows.spawn",
)


def directives() -> list[str]:
    """Return what the pages of the API reference take from docstrings."""
    pages = [page for page in PAGES if page.name.startswith("api")]
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


def test_the_api_reference_has_every_public_name() -> None:
    """Each name of ``taskcore``, what its objects give, and each module that others build on, is there once."""
    import taskcore  # noqa: PLC0415 - for this test only

    expected = [f"taskcore.{name}" for name in [*taskcore.__all__, *MODULES, *CLASSES]]
    assert sorted(directives()) == sorted(expected)


@pytest.mark.parametrize("name", directives())
def test_the_api_reference_names_what_exists(name: str) -> None:
    """A directive whose object is gone would leave a gap on the site, without an error."""
    assert pkgutil.resolve_name(name) is not None


def test_a_documented_module_names_its_public_names() -> None:
    """The reference shows what ``__all__`` names, and each of these names exists."""
    for name in MODULES:
        module = importlib.import_module(f"taskcore.{name}")
        assert all(hasattr(module, public) for public in module.__all__), name


def test_the_architecture_page_names_every_room() -> None:
    """Each module and package directly below taskcore has its place in the table of rooms."""
    page = text_of("architecture.md")
    rooms = {path.stem for path in (ROOT / "src/taskcore").iterdir() if path.suffix in {"", ".py"}}
    assert {room for room in rooms if f"`{room}`" not in page and not room.startswith("__")} == set()


def test_the_architecture_page_lists_the_rooms_from_the_top_down() -> None:
    """No room stands in the table above a room that lies on it, by the layers that the linter proves."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    floors = {room: floor for floor, layer in enumerate(layers) for room in layer.split(" | ")}
    rows = re.findall(r"^\| (`.*?`) \|", text_of("architecture.md"), re.MULTILINE)
    listed = [room for row in rows for room in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(floors)
    assert listed == sorted(listed, key=floors.__getitem__)


def test_the_architecture_page_names_the_rooms_that_may_be_deleted() -> None:
    """The list of feature rooms is the one that is measured apart from the core, and that the core may not import."""
    [line] = [line for line in text_of("architecture.md").splitlines() if line.startswith("- A feature room may be")]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    forbidden = next(one["forbidden_modules"] for one in contracts if one["name"] == "No job needs a feature room")
    named = set(re.findall(r"`(\w+)`", line))
    assert named == {room.removesuffix(".py") for room in FEATURES}
    assert named == {module.removeprefix("taskcore.") for module in forbidden}


def test_the_picture_shows_rooms_that_exist() -> None:
    """Every room in the picture of the architecture is a module or package directly below taskcore."""
    shown = re.findall(r'<text class="room"[^>]*>([^<]+)</text>', text_of("architecture.svg"))
    rooms = {path.stem for path in (ROOT / "src/taskcore").iterdir()}
    assert shown
    assert set(shown) <= rooms
