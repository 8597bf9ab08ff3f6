"""``python -m examples.code_index``."""

from __future__ import annotations

# A task that runs in a process of its own has this file imported there, as in multiprocessing; so it does nothing then.
if __name__ == "__main__":
    import sys

    from examples.code_index.program import main

    sys.exit(main())
