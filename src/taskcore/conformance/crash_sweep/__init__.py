"""Every operation × every crash point × every prior state: die there, let another recover, and compare.

for case in cases(): await run(case, harness)
"""

from taskcore.conformance.crash_sweep.sweep import Case, Dying, cases, crash_here, run

__all__ = ["Case", "Dying", "cases", "crash_here", "run"]
