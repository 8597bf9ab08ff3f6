"""``"module:attribute"`` → App, and a useful answer when that does not work.

no such module      says where it looked and which modules are there
module fails        the user's own lines of the traceback; an error of ours is passed on as it is
no such attribute   the closest names
not an App          what it is instead
"""

from __future__ import annotations

import difflib
import importlib
import linecache
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from taskcore.config import check, load
from taskcore.errors import AppNotFound, TaskcoreError
from taskcore.toolkit.urls import mask_text, mask_url

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["is_misnamed", "load_app"]

SHOWN_FRAMES, SHOWN_NAMES = 3, 8


def load_app(place: str | None, app_dir: str | Path = ".", include: str | None = None) -> App:
    """Load the app at ``place``, such as ``"shop.tasks:app"``; None: the one that the settings name.

    :param place: module and attribute; without the attribute the module's ``app``, or the only App in it.
    :param app_dir: the directory to import from.
    :param include: further modules, which declare tasks; default: those that the settings name.
    :raises AppNotFound: it cannot be loaded (TC101). Errors of ours in the module come through as they are.
    """
    directory = Path(app_dir).resolve()
    what = f'cannot load the app "{_shown(place)}"'
    if place is None:
        place, what = _from_settings(directory)
    name, colon, attribute = place.partition(":")
    parts = [*name.split("."), *(attribute.split(".") if colon else [])]
    if name.endswith(".py") or not all(part.isidentifier() for part in parts):
        _refuse_place(place, directory)
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    app = _find(_import(what, name, directory), attribute, what)
    for module in app.settings.include or () if include is None else check("include", include):
        _include(module, directory)
    return app


def is_misnamed(error: TaskcoreError) -> bool:
    """Tell whether the place of the app, or of an included module, is wrong, rather than the code there."""
    return isinstance(error, AppNotFound) and (
        error.__cause__ is None
        or (isinstance(error.__cause__, ModuleNotFoundError) and not _frames(error.__cause__, Path()))
    )


def _include(name: str, directory: Path) -> None:
    """Import a module that declares tasks; ``"shop.*"`` is the package and every module in it, at any depth."""
    what = f'cannot include "{name}"'
    module = _import(what, name.removesuffix(".*"), directory)
    if name.endswith(".*"):
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
            if not found.name.endswith("__main__"):
                _import(what, found.name, directory)


def _shown(place: str | None) -> str:
    """Write what was given as a place, which may be a URL by mistake."""
    return mask_url(place) if place and ("://" in place or "@" in place) else place or ""


def _from_settings(directory: Path) -> tuple[str, str]:
    """Return the place that the settings name, and the sentence of an error about it."""
    loaded = load(directory=directory)
    place = loaded.settings.app
    if place is None:
        raise AppNotFound(
            "no app was named",
            fix='name one, as in `taskcore worker shop.tasks:app`, or put app = "shop.tasks:app" into [tool.taskcore]',
        )
    return place, f'cannot load the app "{_shown(place)}", named by {loaded.sources["app"]}'


def _refuse_place(place: str, directory: Path) -> NoReturn:
    path, _, attribute = place.replace("\\", "/").partition(":")
    module = path.removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
    raise AppNotFound(
        f'"{_shown(place)}" does not name an app',
        fix=f'name module and attribute, such as "{module if _importable(module, directory) else "shop.tasks"}'
        f':{attribute if attribute.isidentifier() else "app"}"',
    )


def _importable(module: str, directory: Path) -> bool:
    path = directory.joinpath(*module.split("."))
    return bool(module) and (path.with_suffix(".py").is_file() or path.is_dir())


# ── importing ────────────────────────────────────────────────────────────────────────────────────


def _import(what: str, name: str, directory: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except TaskcoreError:
        raise  # the module uses us wrongly, and the error says how
    except SystemExit as error:
        raise AppNotFound(
            what,
            facts=[f"{name} ended the program while it was imported", *_frames(error, directory)],
            fix='put what the program does under: if __name__ == "__main__":',
        ) from error
    except Exception as error:
        frames = _frames(error, directory)
        if isinstance(error, ModuleNotFoundError) and not frames:
            raise AppNotFound(
                what,
                facts=[f"{error.msg} (searched {directory}, then sys.path)"],
                fix=f"run it from the project's root, or with --app-dir DIR{_modules_here(name, directory)}",
            ) from error
        text = mask_text(str(error)).splitlines() or [""]
        raise AppNotFound(
            what,
            facts=[f"importing {name} raised {type(error).__name__}: {text[0]}".rstrip(": "), *text[1:6], *frames],
            fix=_fix(error, directory),
        ) from error


def _frames(error: BaseException, directory: Path) -> list[str]:
    """List the innermost places in the user's own code; a library's only if there is no other."""
    if isinstance(error, SyntaxError) and error.filename:
        return [f"  {_short(error.filename, directory)}:{error.lineno}: {mask_text((error.text or '').strip())}"]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and Path(frame.filename) not in _MACHINERY
    ]
    own = [frame for frame in frames if _is_own(frame.filename, directory)] or frames
    return [
        f"  {_short(frame.filename, directory)}:{frame.lineno} in {frame.name}: "
        + mask_text(linecache.getline(frame.filename, frame.lineno or 0).strip())
        for frame in own[-SHOWN_FRAMES:]
    ]


_MACHINERY = (Path(__file__), Path(importlib.__file__))


def _is_own(filename: str, directory: Path) -> bool:
    return Path(filename).is_relative_to(directory) and "site-packages" not in filename


def _short(filename: str, directory: Path) -> str:
    path = Path(filename)
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else filename


def _fix(error: BaseException, directory: Path) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return "mend the module; --debug shows the whole traceback"
    close = difflib.get_close_matches(error.name, list(_modules(directory)), n=1)
    if close:
        return f"did you mean `import {close[0]}`?"
    return (
        f"install what provides {error.name.partition('.')[0]} into this environment ({sys.prefix}), or mend the import"
    )


def _modules_here(name: str, directory: Path) -> str:
    modules = list(_modules(directory))
    close = difflib.get_close_matches(name, modules, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; modules here: {', '.join(modules[:SHOWN_NAMES])}" if modules else ""


def _modules(directory: Path) -> Iterator[str]:
    for path in sorted(directory.iterdir()):
        is_module = path.suffix == ".py" or (path / "__init__.py").is_file()
        if is_module and path.stem.isidentifier() and not path.stem.startswith(("_", "test_", "conftest")):
            yield path.stem


# ── finding the app in the module ────────────────────────────────────────────────────────────────


def _find(module: ModuleType, attribute: str, what: str) -> App:
    from taskcore.app import App

    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if not attribute:
        if "app" in apps or len({id(app) for app in apps.values()}) == 1:
            return apps.get("app") or next(iter(apps.values()))
        raise AppNotFound(what, facts=[f"{_home(module)} has {_listed(apps)}"], fix=_name_one(module, apps))
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            close = difflib.get_close_matches(part, [*apps, *(name for name in dir(value) if name[0] != "_")], n=1)
            fix = f'did you mean "{module.__name__}:{close[0]}"?' if close else _name_one(module, apps)
            raise AppNotFound(what, facts=[f'{_home(module)} has no "{attribute}", but {_listed(apps)}'], fix=fix)
        value = getattr(value, part)
    if isinstance(value, App):
        return value
    raise AppNotFound(what, facts=[f"it is {_kind(value)}, not an App"], fix=_name_one(module, apps))


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _home(module: ModuleType) -> str:
    return f"{module.__name__} ({getattr(module, '__file__', None) or 'a namespace package'})"


def _listed(apps: dict[str, App]) -> str:
    return f"these apps: {', '.join(apps)}" if apps else "no App at all"


def _name_one(module: ModuleType, apps: dict[str, App]) -> str:
    if not apps:
        return f'write app = App("memory://") in {module.__name__}'
    return "name one: " + " or ".join(f"{module.__name__}:{name}" for name in list(apps)[:SHOWN_NAMES])
