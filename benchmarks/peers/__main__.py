"""Measure one peer alone, on an empty server: queues of peers are not removed.

    python benchmarks/peers celery redis://127.0.0.1:6379/0 [--results URL] [--parts drain,latency]

Its environment is made first if it is not there.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys

from environment import PeerFailed, names, prepare, read
from measuring import PARTS, Effort, Measured

BROKERS = {"redis": "redis", "amqp": "rabbitmq", "nats": "nats", "postgresql": "postgresql"}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=names())
    parser.add_argument("url")
    parser.add_argument(
        "--results", default="", help="a Redis in which results are kept; default: the broker, if it is one"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its worker is ended, as after Ctrl-C
    peer = read(options.peer)
    broker = BROKERS.get(options.url.partition("://")[0], "")
    if broker not in peer.brokers:
        parser.error(f"{peer.name} is measured on: {', '.join(peer.brokers)}")
    results = options.results or (options.url if broker == "redis" else "")
    failed = False
    try:
        home = prepare(peer)
    except PeerFailed as error:
        print(f"{peer.name} cannot be installed: {error}", file=sys.stderr)
        return 1
    if not options.json:
        print(f"{peer.name} {home.version} on {broker}; {peer.guarantee}\n{peer.settings}\n{peer.source}\n")
    measured = Measured(
        peer, home, broker, options.url, results_url=results, effort=Effort(options.rounds, options.seconds)
    )
    for part in options.parts.split(","):
        try:
            figures = measured.part(part)
        except PeerFailed as error:
            failed = True
            print(f"{part} failed: {error}", file=sys.stderr)
            continue
        for figure in figures:
            if options.json:
                print(json.dumps(figure), flush=True)
            else:
                show(figure)
    return 1 if failed else 0


def show(figure: dict) -> None:
    """Write one line."""
    values, facts = figure["values"], figure["facts"]
    spread = f"{min(values):,.1f} … {max(values):,.1f}" if len(values) > 1 else ""
    told = ", ".join(f"{facts[key]} {key}" for key in ("jobs", "sent", "in_hand", "lost", "duplicated") if key in facts)
    name = f"{figure['scenario']}: {figure['name']}"
    print(f"{name:42} {statistics.median(values):>12,.2f} {figure['unit']:8} {spread:24} {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
