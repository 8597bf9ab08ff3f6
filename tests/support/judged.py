"""Only the checker: model and sweep with their own oracles switched off, to see what is found without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from taskcore.conformance.checking import GuaranteesBroken
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.crash_sweep import sweep
from taskcore.conformance.model import working
from taskcore.conformance.model.job import JobModel
from taskcore.conformance.model.rules import ModelRules
from taskcore.conformance.model.sending import Sending

__all__ = ["sweep_without_oracle", "without_oracle"]


@contextmanager
def without_oracle() -> Iterator[None]:
    """Let the model run and believe whatever it sees; only the checker judges, at the end."""

    def nothing(*_: Any, **__: Any) -> None:
        """Have no opinion."""

    def delivered(original: Any, self: JobModel, *args: Any) -> None:
        if self.may_wait:
            original(self, *args)

    with ExitStack() as stack:
        stack.enter_context(patch.object(JobModel, "violated", nothing))
        stack.enter_context(patch.object(JobModel, "check_letter", nothing))
        original = JobModel.delivered
        stack.enter_context(patch.object(JobModel, "delivered", lambda self, *args: delivered(original, self, *args)))
        stack.enter_context(patch.object(JobModel, "observe", nothing))
        stack.enter_context(patch.object(working, "check_start", nothing))
        stack.enter_context(patch.object(working, "check_unstarted", nothing))
        stack.enter_context(patch.object(Sending, "check_foreign", nothing))
        for name in ("_check_end", "_check_letters", "_check_events", "_check_storage", "check_keys"):
            stack.enter_context(patch.object(ModelRules, name, nothing))
        yield


def sweep_without_oracle(make_harness: Any) -> None:
    """Run every case until the checker objects; other failures of a case are ignored."""

    async def nothing(*_: Any, **__: Any) -> None:
        """Have no opinion."""

    with patch.object(sweep, "check", nothing):
        for case in sweep.cases(make_harness):
            try:
                sweep.run(case, make_harness)
            except GuaranteesBroken:
                raise
            except (AssertionError, ClauseViolated):
                continue
