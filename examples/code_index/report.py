"""Adding up: from the outcomes of all jobs to numbers, ``report.json`` and the lines in the terminal.

Every file has to be accounted for exactly once: it was indexed, or it is a dead letter with a reason. A program that
hands thousands of jobs to others should be able to say so.
"""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from examples.code_index.analysis import BUCKETS, Function, NotPython
from examples.code_index.index import Harvest, Indexed
from examples.code_index.page import render
from examples.code_index.sources import Origin
from taskcore import Dead, Failed, Succeeded
from taskcore.config import Settings, mask_url

