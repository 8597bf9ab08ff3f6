"""No text shows a piece of a secret in a URL, wherever it stands and whatever characters it has."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taskcore import App, TaskcoreError
from taskcore.bench.program import Spec
from taskcore.bench.workers import WorkerProcesses
from taskcore.cli.group import run
from taskcore.config import load, show
from taskcore.conformance.crash_sweep.child import CaseOrders, run_child
from taskcore.conformance.crash_sweep.sweep import Case
from taskcore.connections.amqp.address import OPTIONS as AMQP_OPTIONS
from taskcore.connections.nats.address import READERS as NATS_READERS
from taskcore.connections.redis.address import READERS as REDIS_READERS
from taskcore.connections.sqlite.address import READERS as SQLITE_READERS
from taskcore.errors import InvalidSetting
from taskcore.faults.child import Child
from taskcore.toolkit.urls import SHOWN_OPTIONS, mask_text, mask_url

SCHEMES = (
    "redis", "rediss", "REDIS", "valkey", "unix", "redis+sentinel", "redis+cluster", "amqp", "amqps", "AMQP", "nats",
    "NATS", "tls", "Tls", "postgresql", "postgres", "sqlite", "memory", "nonsense",
)  # fmt: skip
STORES = ("postgresql", "postgres", "sqlite")
LETTERS = "QZX7ÜÄ"  # no text of the library has four of these, so what is found is the secret's
secrets = st.text(LETTERS + "/?#@%:,&=[] ;+'\"\\\n", min_size=6, max_size=24)
PLACES = (
    "{scheme}://u:{secret}@h/0",
    "{scheme}://{secret}@h",
    "{scheme}://:{secret}@h:1/x/y",
    "{scheme}://{secret}:{secret}@h",
    "{scheme}://u:{secret}@a:1,u:{secret}@b:2/",
    "{scheme}://{secret}@a:1,{scheme}://{secret}@b:2/",
    "{scheme}://a:1,u:{secret}@b:port",
    "{scheme}://u:{secret}@/run/x.sock",
    "{scheme}://u:{secret}@h/0?timeout=never&limit=x",
    "{scheme}://h/0?password={secret}",
    "{scheme}://h/0?timeout=1&token={secret}&limit=5",
    "{scheme}://h/0?sslkey={secret}",
    "{scheme}://h/0?ssl_keyfile={secret}&nkey={secret}&creds={secret}&keyfile={secret}",
    "{scheme}://h/0?sslpassword={secret}&pasword={secret}",
    "{scheme}:///x?sentinel_password={secret}",
    "{scheme}://u:{secret}@h/0#{secret}",
    "u:{secret}@h",
    "{secret}@h",
)


def assert_hidden(secret: str, shown: str) -> None:
    """Fail if four characters of the secret in a row are in a text."""
    for form in (secret, quote(secret, safe="")):
        for start in range(len(form) - 3):
            piece = form[start : start + 4]
            if any(letter in LETTERS for letter in piece) and "%" not in piece:
                assert piece not in shown, (piece, shown)


def everything_about(error: BaseException) -> str:
    """Return all texts of an error: its own, its traceback's, and those of the errors that it came from."""
    texts = [str(error), repr(error)]
    texts += [line for line in traceback.format_exception(error) if not line.startswith("  File")]
    while (error := error.__cause__ or error.__context__) is not None:  # type: ignore[assignment]
        texts.append(str(error))
    return "\n".join(texts)


def texts_of(url: str) -> str:
    """Return what an app, the settings and the masks say about a URL."""
    as_store = url.partition("://")[0] in STORES
    texts = [mask_url(url), show("url", url), show("store", url)]
    try:
        app = App("memory://", store=url) if as_store else App(url)
        texts += [repr(app), repr(app.settings), str(app.settings), repr(list(app.settings.__rich_repr__()))]
        texts.append(repr(load(arguments={"url": url, "store": url})))
    except TaskcoreError as error:
        texts.append(everything_about(error))
    if "://" in url.partition("@")[0]:
        texts.append(mask_text(f"cannot connect to {url!r}"))
    wrong = ("TASKCORE_CONCURRENCY", "TASKCORE_QUEUES", "TASKCORE_LEASE") if re.match(r"[\w+]+://", url) else ()
    for variable in ("TASKCORE_URL", "TASKCORE_STORE", *wrong):
        try:
            loaded = load(environ={variable: url}, directory="/")
            texts.append(repr(loaded))
        except TaskcoreError as error:
            texts.append(everything_about(error))
    return "\n".join(texts)


some = settings(max_examples=40, deadline=None)


@some
@pytest.mark.parametrize("place", PLACES)
@given(scheme=st.sampled_from(SCHEMES), secret=secrets)
def test_no_text_shows_a_piece_of_a_secret(place: str, scheme: str, secret: str) -> None:
    """Whatever characters a secret has, masks, reprs, settings and errors show no four of them in a row."""
    assert_hidden(secret, texts_of(place.format(scheme=scheme, secret=secret)))


@some
@given(scheme=st.sampled_from(SCHEMES), secret=secrets)
def test_a_login_without_its_at_sign_is_hidden(scheme: str, secret: str) -> None:
    """Where the @ is missing, the password stands where a port should be, and no text shows it."""
    assume("@" not in secret and re.match(r"[\d٠-٩]{0,5}([/?#,]|$)", secret) is None)
    assert_hidden(secret, texts_of(f"{scheme}://u:{secret}"))


@some
@given(scheme=st.sampled_from(SCHEMES), secret=secrets)
def test_an_escaped_password_is_hidden(scheme: str, secret: str) -> None:
    """A URL that is written as it should be works, and its password is hidden."""
    assert_hidden(secret, texts_of(f"{scheme}://u:{quote(secret, safe='')}@h/0"))


def text_in(out: io.TextIOWrapper) -> str:
    """Return what was written, as text and as bytes."""
    out.flush()
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@some
@given(scheme=st.sampled_from(SCHEMES), place=st.sampled_from(PLACES[:9]), secret=secrets)
def test_no_command_shows_a_piece_of_a_secret(scheme: str, place: str, secret: str) -> None:
    """A command that gets a URL where it expects an app, or a URL that cannot be used, does not repeat its secret."""
    url = place.format(scheme=scheme, secret=secret)
    out = io.TextIOWrapper(io.BytesIO())
    for arguments in ([url], ["config", url], ["config", "shop:app", url], ["worker", url], ["conformance", url, url]):
        with redirect_stdout(out), redirect_stderr(out):
            assert run(arguments)
    assert_hidden(secret, text_in(out))


SECRET = "hunter2-QZX7QZX7"
UNREACHABLE = (
    f"redis://ada:{SECRET}@127.0.0.1:1/0?connect_timeout=1",
    f"rediss://:{SECRET}@127.0.0.1:1",
    f"unix://ada:{SECRET}@/nowhere/redis.sock",
    f"redis+sentinel://ada:{SECRET}@127.0.0.1:1,127.0.0.1:2/mymaster?sentinel_password={SECRET}",
    f"redis+cluster://ada:{SECRET}@127.0.0.1:1,127.0.0.1:2/",
    f"amqp://ada:{SECRET}@127.0.0.1:1/shop",
    f"nats://{SECRET}@127.0.0.1:1,{SECRET}@127.0.0.1:2",
    f"NATS://127.0.0.1:1?token={SECRET}",
)


@pytest.mark.parametrize("url", UNREACHABLE)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_broker_that_cannot_be_reached_is_told_without_its_password(
    url: str, as_json: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Doctor, its JSON, the debug log of the library and the traceback of ``--debug`` show no secret."""
    out = io.TextIOWrapper(io.BytesIO())
    with caplog.at_level(logging.DEBUG), redirect_stdout(out), redirect_stderr(out):
        run(["doctor", url, *(["--json"] if as_json else [])])
    text = text_in(out)
    assert "TC201" in text
    assert_hidden(SECRET, text + caplog.text)
    if as_json:
        assert all(json.loads(line) for line in text.splitlines())


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        f'app = App("redis://ada:{SECRET}@host:port")',
        f'app = App("ada:{SECRET}@host")',
        f'raise ValueError("cannot use amqp://ada:{SECRET}@host")',
        f'connect("nats://{SECRET}@host")',
        f'app = App("redis://ada:{SECRET}@host"',
    ],
)
def test_an_app_that_cannot_be_imported_is_told_without_its_password(
    line: str, debug: bool, tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the lines of a traceback nor the text of a foreign error show the password in them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"secretive_{abs(hash((line, debug)))}"
    (tmp_path / f"{name}.py").write_text(f"from taskcore import App\n{line}\n")
    assert run(["config", f"{name}:app", "--app-dir", str(tmp_path), *(["--debug"] if debug else [])])
    captured = capsys.readouterr()
    assert_hidden(SECRET, captured.out + captured.err)


def test_a_url_in_place_of_a_settings_name_is_hidden(tmp_path: Path) -> None:
    """The error about a setting whose name is a URL, in a file or as an argument, hides the password."""
    (tmp_path / "taskcore.toml").write_text(f'"redis://ada:{SECRET}@host" = 1\n')
    for place, arguments in ((tmp_path, {}), (Path("/"), {f"redis://ada:{SECRET}@host": 1})):
        with pytest.raises(InvalidSetting, match="there is no setting") as caught:
            load(environ={}, directory=place, arguments=arguments)
        assert_hidden(SECRET, everything_about(caught.value))


def test_no_process_of_the_test_kit_has_a_url_in_its_command_line(tmp_path: Path, monkeypatch: Any) -> None:
    """Every user of a machine can read a command line; environments and pipes are the program's own."""
    commands: list[Any] = []
    monkeypatch.setattr(Child, "__init__", lambda _, argv, **__: commands.append(argv))
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: commands.append(argv) or CompletedProcess(argv, 0))
    WorkerProcesses(Spec(url=f"redis://:{SECRET}@h", store=None, queue="q", report=""), 1, tmp_path)
    case = Case("enqueue", "", 1, "new")
    run_child(CaseOrders(f"redis://:{SECRET}@h", None, case, "q", "1", 1.0, 1.0, ""))
    assert len(commands) == 2
    assert_hidden(SECRET, repr(commands))


def test_every_option_of_an_adapter_is_shown_or_known_to_be_secret() -> None:
    """A new option of an adapter is hidden until it is listed as harmless."""
    secret = {"sentinel_username", "sentinel_password", "ssl_keyfile", "keyfile", "token", "creds", "nkey", "key"}
    options = {*AMQP_OPTIONS, *NATS_READERS, *REDIS_READERS, *SQLITE_READERS}
    assert options - SHOWN_OPTIONS == secret


def test_a_certain_url_stays_readable() -> None:
    """Hosts, ports, database and harmless options help an operator, so they are shown."""
    assert mask_url("redis://ada:x@one:6379/0?timeout=5s") == "redis://****@one:6379/0?timeout=5s"
    assert mask_url("nats://t@one:4222,t@two:4222/?replicas=3") == "nats://****@two:4222/?replicas=3"
    assert mask_url("sqlite:////var/lib/shop.db?synchronous=full") == "sqlite:////var/lib/shop.db?synchronous=full"
