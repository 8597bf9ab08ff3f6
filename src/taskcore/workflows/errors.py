"""The errors that only workflows raise."""

from __future__ import annotations

from taskcore.errors import ContractError, JobError

__all__ = ["BatchClosed", "InvalidWorkflow", "WorkflowExists", "WorkflowNotFound"]


class InvalidWorkflow(ContractError, TypeError):
    """A workflow cannot run as it is written; nothing was sent."""

    code = "TC311"


class WorkflowExists(ContractError, ValueError):
    """Another workflow has the id that a caller chose; nothing was sent."""

    code = "TC312"


class BatchClosed(ContractError, RuntimeError):
    """The batch takes no jobs: it is not open yet, closed, or was given up."""

    code = "TC313"


class WorkflowNotFound(JobError, LookupError):
    """There is no workflow with this id, or its records are gone."""

    code = "TC411"
