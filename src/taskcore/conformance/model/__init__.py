"""A Hypothesis state machine that drives any backend beside a model, and compares the two after every step.

machine(harness)     the state machine; ``DEFAULT`` is its budget on memory, ``REAL_TIME`` on a real broker
"""

from taskcore.conformance.model.machine import DEFAULT, REAL_TIME, ModelMachine, machine

__all__ = ["DEFAULT", "REAL_TIME", "ModelMachine", "machine"]
