"""A child of the tests: it passes crash points and writes a history."""

from __future__ import annotations

import signal
import sys
import time

from taskcore.faults.crash import history_from_environment, install_from_environment
from taskcore.toolkit.failpoints import failpoint


def main() -> None:
    """Work until a signal stops it."""
    install_from_environment()
    history = history_from_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    print("ready", *sys.argv[1:])  # noqa: T201 - the test reads it
    for number in range(int(sys.argv[1])):
        history.record("start", f"job-{number}", run=number)
        failpoint("run.returned")
        history.record("end", f"job-{number}", run=number, outcome="returned")
        print("did", number)  # noqa: T201 - the test reads it
        time.sleep(0.01)


main()
