"""The errors that only workflows raise."""

from __future__ import annotations

from taskcore.errors import ContractError, JobError

__all__ = ["InvalidWorkflow", "WorkflowNotFound"]


class InvalidWorkflow(ContractError, TypeError):
    """A workflow cannot be built as it is written; nothing was sent."""

    code = "TC311"


class WorkflowNotFound(JobError, LookupError):
    """There is no workflow with this id, or its records are gone."""

    code = "TC411"
