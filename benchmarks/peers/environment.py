"""A peer's file, read without importing it, and an environment of its own to run it in.

Requirements of peers contradict each other (arq wants redis-py 5, Repid 7, others 8), so each gets a virtual environment
below ``.bench/peers`` of this checkout, or of the folder that ``TASKCORE_BENCH_CACHE`` names instead of ``.bench``.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ruler import HERE, Peer

INSTALL_WITHIN = 600


class PeerFailed(Exception):
    """A peer could not be installed, or did not do what it was asked to; the text says what it printed last."""


class Home(NamedTuple):
    """Where a peer lives: its folder, its interpreter, the versions that are in there."""

    work: Path
    python: Path
    version: str


def cache() -> Path:
    """Return where environments are kept from run to run."""
    given = os.environ.get("TASKCORE_BENCH_CACHE")
    return (Path(given) if given else HERE.parents[1] / ".bench") / "peers"


def names() -> list[str]:
    """List the peers, as the command line calls them."""
    return sorted(path.stem.rstrip("_") for path in HERE.glob("[!_]*_.py"))


def read(name: str) -> Peer:
    """Read what a peer's file says about it. It is not imported: its library is not in this environment.

    :raises PeerFailed: there is no such peer.
    """
    path = HERE / f"{name}_.py"
    if not path.is_file():
        raise PeerFailed(f'no peer is called "{name}"; there are: {", ".join(names())}')
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        if [target.id for target in node.targets if isinstance(target, ast.Name)] == ["PEER"]:
            return Peer(**{str(each.arg): ast.literal_eval(each.value) for each in node.value.keywords})
    raise PeerFailed(f"{path.name} does not say PEER = ruler.Peer(…)")


def prepare(peer: Peer) -> Home:
    """Return the peer's environment, made now if it is not there.

    :raises PeerFailed: it cannot be installed; the text has the reason.
    """
    wanted = " ".join([peer.tool, sys.version.split()[0], *peer.requirements])
    work = cache() / f"{peer.package}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    ready = work / "ready"
    if not ready.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            (_npm if peer.tool == "npm" else _pip)(peer, work)
        except FileNotFoundError as error:
            raise PeerFailed(f"{error.filename} is not installed") from error
        ready.write_text(wanted)
    if peer.tool == "npm":
        shutil.copy(HERE / f"{peer.package}.mjs", work)
    python = work / "bin" / "python" if peer.tool == "pip" else Path("node")
    return Home(work, python, _version(peer, work, python))


def _pip(peer: Peer, work: Path) -> None:
    _run([sys.executable, "-m", "venv", str(work)])
    _run(
        [str(work / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.requirements]
    )


def _npm(peer: Peer, work: Path) -> None:
    (work / "package.json").write_text('{"private": true}')
    _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(work), *peer.requirements])


def _version(peer: Peer, work: Path, python: Path) -> str:
    if peer.tool == "npm":
        code = f"console.log(require('{peer.package}/package.json').version, process.version)"
        number, _, node = _run(["node", "-e", code], cwd=work).strip().partition(" ")
        return f"{number} (Node {node})"
    code = f"from importlib.metadata import version; print(version('{peer.package}'))"
    return _run([str(python), "-c", code]).strip()


def _run(command: list[str], cwd: Path | None = None) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_WITHIN, check=False)
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise PeerFailed(f"{Path(command[0]).name} {' '.join(command[1:4])} …: {last[0]}")
    return ran.stdout
