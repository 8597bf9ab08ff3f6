"""Workflows: chains, graphs and maps of tasks whose every hand-over survives a crash; a feature room."""

from taskcore.workflows.batch import Batch, BatchOptions, BatchProgress
from taskcore.workflows.build import TakesFirst, Workflow
from taskcore.workflows.chain import Chain
from taskcore.workflows.children import continue_with, spawn
from taskcore.workflows.compensation import Compensation
from taskcore.workflows.errors import BatchClosed, InvalidWorkflow, WorkflowExists, WorkflowNotFound
from taskcore.workflows.family import ChildJob, JobFamily, ParentWorkflow
from taskcore.workflows.outcomes import ChildFailure, ChildOutcome, ChildValue
from taskcore.workflows.run import Run
from taskcore.workflows.show import StepState, WorkflowProgress, WorkflowState
from taskcore.workflows.steps import FirstOf, MapStep, Step
from taskcore.workflows.workflows import WorkflowOptions, Workflows

__all__ = [
    "Batch",
    "BatchClosed",
    "BatchOptions",
    "BatchProgress",
    "Chain",
    "ChildFailure",
    "ChildJob",
    "ChildOutcome",
    "ChildValue",
    "Compensation",
    "FirstOf",
    "InvalidWorkflow",
    "JobFamily",
    "MapStep",
    "ParentWorkflow",
    "Run",
    "Step",
    "StepState",
    "TakesFirst",
    "Workflow",
    "WorkflowExists",
    "WorkflowNotFound",
    "WorkflowOptions",
    "WorkflowProgress",
    "WorkflowState",
    "Workflows",
    "continue_with",
    "spawn",
]
