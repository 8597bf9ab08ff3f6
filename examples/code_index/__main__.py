"""``python -m examples.code_index``."""

from __future__ import annotations

# A task that runs in a process of its own has this file imported there, as in multiprocessing; so it does nothing then.
if __name__ == "__main__":
    import sys

    from taskcore import TaskcoreError

    try:
        from examples.code_index.program import main
    except TaskcoreError as error:  # the app is made when its module is imported: a setting is wrong
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
