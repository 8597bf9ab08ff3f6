"""Dead letters: jobs that cannot go on, each with a reason, readable and replayable (C13).

    letters.py         what a letter is
    causes.py          which letters died of the same
    dead_letters.py    reads, replays and drops them

A letter stays until it is replayed or dropped.
"""

from taskcore.deadletter.causes import Cause, fingerprint
from taskcore.deadletter.dead_letters import DeadLetters, LetterVerdict, ReplayWith, SettledLetters
from taskcore.deadletter.letters import BuriedJob, DeadLetter, DeadLetterHook, telling

__all__ = [
    "BuriedJob",
    "Cause",
    "DeadLetter",
    "DeadLetterHook",
    "DeadLetters",
    "LetterVerdict",
    "ReplayWith",
    "SettledLetters",
    "fingerprint",
    "telling",
]
