"""``python -m taskcore`` is the command ``taskcore``."""

from __future__ import annotations

from taskcore.cli import main

if __name__ == "__main__":
    main()
