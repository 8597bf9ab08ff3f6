"""``python -m taskcore`` is the command ``taskcore``."""

from __future__ import annotations

from taskcore.cli.main import main

if __name__ == "__main__":
    main()
