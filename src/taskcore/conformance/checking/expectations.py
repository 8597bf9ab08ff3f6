"""Expectations: which further guarantees the checker holds this broker and this store to."""

from __future__ import annotations

from typing import Self

import msgspec

from taskcore.backend import Features

__all__ = ["Expectations"]


class Expectations(msgspec.Struct, frozen=True, kw_only=True):
    """What not every place promises; without it the checker keeps to what holds everywhere.

    :param results: a store keeps how every job ended: then a job that is over has an outcome there (C8).
    :param marked: starts are marked in a store; without one the broker's count of hand-outs stands in, and a job may be
        called poison for it without having started (C12).
    :param one_copy: the broker keeps one copy of a job, whatever happens: it notices an id that it has, and moves a job
        in one step.
    :param fenced: the broker refuses verdicts under a lost lease (C7).
    :param key_window: seconds in which jobs of one task with one key have one outcome (C10); None: is not looked at.
    """

    results: bool = False
    marked: bool = True
    one_copy: bool = True
    fenced: bool = False
    key_window: float | None = None

    @classmethod
    def from_features(cls, features: Features, *, has_store: bool, key_window: float | None = None) -> Self:
        """Return what these features promise, beside a store or without one."""
        one_copy = features.dedup != "absent" and features.atomic_retry
        return cls(
            results=has_store,
            marked=has_store,
            one_copy=one_copy,
            fenced=one_copy and features.fencing == "native",
            key_window=key_window if has_store else None,
        )
