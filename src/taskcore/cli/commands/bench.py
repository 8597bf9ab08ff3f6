"""``taskcore bench``: measure brokers on this machine."""

from __future__ import annotations

import shlex
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click
import msgspec

from taskcore.cli.group import DEBUG, Exit
from taskcore.cli.output import print_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from taskcore.bench import BenchEnvironment, BenchRecord, Size
    from taskcore.bench.scenarios import BenchScenario

__all__ = ["command"]


@click.command("bench", short_help="Measure brokers on this machine")
@click.argument("urls", nargs=-1, metavar="[URL]…")
@click.option("--store", metavar="URL", help="Keep records here, for brokers that have no store of their own.")
@click.option("--only", multiple=True, metavar="NAME,…", help="Measure the scenarios with these words in their names.")
@click.option("--quick", is_flag=True, help="Small numbers and one round: under half a minute for each broker.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Measure each rate so often.")
@click.option(
    "--backlog", type=click.IntRange(min=0), metavar="N", default=0, help="Also behind a queue of so many jobs."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: machine, figures, what was skipped.")
@DEBUG
def command(
    urls: tuple[str, ...],
    store: str | None,
    only: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    backlog: int,
    as_json: bool,
) -> int:
    """Measure enqueueing, draining, latency, recovery after kills, and what it all costs.

    Without a URL it measures memory:// and each broker whose server and adapter are installed here, on private servers
    that it starts and removes. With URLs it measures those, in queues with names of its own that it deletes at the end;
    other queues are not touched, and what needs a kill or a look into the server is left out.

    Compare figures of one run on one quiet machine only. The exit code is 0; 1 if a job was lost or a scenario failed;
    4 if a broker cannot be reached.
    """
    from taskcore.bench import FULL, QUICK, chosen, quiet_logs

    quiet_logs()

    size = msgspec.structs.replace(QUICK if quick else FULL, backlog=backlog)
    size = msgspec.structs.replace(size, rounds=rounds or size.rounds)
    try:
        scenarios = chosen([name.strip() for part in only for name in part.split(",") if name.strip()], backlog=backlog)
    except LookupError as error:
        raise click.BadParameter(str(error), param_hint="--only") from None
    records = anyio.run(partial(_run, _environments(urls, size, store), scenarios, as_json))
    return Exit.FAILED if any(_is_bad(record) for record in records) else Exit.DONE


def _environments(
    urls: tuple[str, ...], size: Size, store: str | None
) -> dict[str, Callable[[], AbstractAsyncContextManager[BenchEnvironment]]]:
    from taskcore.bench import BROKERS, named_environment, private_environment
    from taskcore.toolkit.urls import mask_url

    if urls:
        names = [mask_url(url) for url in urls]
        numbered = [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
        return {name: partial(named_environment, url, size, store) for name, url in zip(numbered, urls, strict=True)}
    return {name: partial(private_environment, name, size) for name in BROKERS}


async def _run(
    environments: Mapping[str, Callable[[], AbstractAsyncContextManager[BenchEnvironment]]],
    scenarios: Mapping[str, BenchScenario],
    as_json: bool,
) -> list[BenchRecord]:
    from taskcore.bench import describe_machine, encode_line, measure, printed, table_of
    from taskcore.toolkit.urls import mask_text, mask_url

    began = time.monotonic()
    shown = [mask_url(word) if "://" in word else mask_text(word) for word in sys.argv[1:]]
    machine = await describe_machine(shlex.join(["taskcore", *shown]))
    records: list[BenchRecord] = []

    def on_record(record: BenchRecord) -> None:
        records.append(record)
        if as_json:
            print_line(encode_line(record))

    await measure(environments, scenarios, printed(), on_record)
    machine = msgspec.structs.replace(machine, seconds=round(time.monotonic() - began, 1))
    records.append(machine)
    print_line(encode_line(machine) if as_json else table_of(records))
    return records


def _is_bad(record: BenchRecord) -> bool:
    from taskcore.bench import Figure, Skipped

    if isinstance(record, Figure):
        return record.lost > 0
    return isinstance(record, Skipped) and record.why.startswith("failed")
