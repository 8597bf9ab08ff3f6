"""Workflows: chains, graphs and maps of tasks whose every hand-over survives a crash; a feature room."""

from taskcore.workflows.build import Workflow
from taskcore.workflows.errors import InvalidWorkflow, WorkflowNotFound
from taskcore.workflows.outcomes import ChildFailure, ChildOutcome, ChildValue
from taskcore.workflows.run import Run
from taskcore.workflows.steps import MapStep, Step
from taskcore.workflows.workflows import WorkflowOptions, Workflows

__all__ = [
    "ChildFailure",
    "ChildOutcome",
    "ChildValue",
    "InvalidWorkflow",
    "MapStep",
    "Run",
    "Step",
    "Workflow",
    "WorkflowNotFound",
    "WorkflowOptions",
    "Workflows",
]
