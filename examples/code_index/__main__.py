"""``python -m examples.code_index``."""

from __future__ import annotations

# A process for `runs_in="process"` imports this file, as in multiprocessing, and must not start the program again.
if __name__ == "__main__":
    import sys

    from examples.code_index.program import main

    sys.exit(main())
