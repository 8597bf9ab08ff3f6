"""What ``taskcore worker`` is given: the app of the run that the environment names."""

from __future__ import annotations

import os

import msgspec

from benchmarks.soak.app import SPEC, Spec, make_app

__all__ = ["app"]

app = make_app(msgspec.json.decode(os.environ[SPEC], type=Spec))
