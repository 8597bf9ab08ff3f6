"""Every error that taskcore raises, by what is wrong.

    TaskcoreError
    ├── SetupError                 the program is put together wrongly; raised before any job runs
    │   ├── AppNotFound            TC101  (ImportError)     the app named on the command line cannot be loaded
    │   ├── AdapterMissing         TC102  (ImportError)     no adapter is installed for the URL's scheme
    │   ├── InvalidURL             TC103  (ValueError)      a URL with a typo or an unknown option
    │   ├── InvalidSetting         TC104  (ValueError)      a setting or option with an impossible value
    │   ├── StoreRequired          TC105  (ValueError)      a feature needs a store and the app has none
    │   ├── NotRunning             TC106  (RuntimeError)    the app is not open, or open elsewhere
    │   ├── FeatureRefused         TC501  (ValueError)      this broker cannot do what a task asks
    │   └── UnsafeBroker           TC502  (RuntimeError)    strict, and the server's settings break a guarantee
    ├── BrokerError                the broker or the store did not do what it was asked
    │   ├── BrokerUnavailable      TC201  (ConnectionError) it cannot be reached
    │   ├── EnqueueUncertain       TC202  (TimeoutError)    the job may or may not be stored; repeat it by its id
    │   ├── EnqueueRefused         TC203  (RuntimeError)    the job is surely not stored (full, unroutable, …)
    │   ├── LeaseLost              TC204  (RuntimeError)    the delivery belongs to another worker by now
    │   └── StoreRefused           TC205  (ValueError)      the store never takes this record: it is too large, …
    ├── ContractError              values and signatures do not fit together
    │   ├── InvalidArguments       TC302  (TypeError)       a call that does not fit its contract
    │   ├── InvalidContract        TC303  (TypeError)       a signature that cannot be a contract
    │   ├── UnencodableResult      TC304  (TypeError)       a returned value that does not fit the contract
    │   ├── DuplicateTask          TC306  (ValueError)      two tasks with one name
    │   ├── PayloadTooLarge        TC307  (ValueError)      over the payload limit
    │   ├── InvalidName            TC308  (ValueError)      a task, queue or header name that cannot travel
    │   └── MalformedEnvelope      TC309  (ValueError)      bytes that are not an envelope
    └── JobError                   what a caller learns about a job
        ├── ResultTimeout          TC401  (TimeoutError)    no outcome within the given time
        ├── KeyConflict            TC402  (ValueError)      an idempotency key was used with other arguments
        ├── JobFailed              TC403  (RuntimeError)    the job ended as a dead letter
        ├── JobCancelled           TC404  (RuntimeError)    the job was cancelled
        ├── JobExpired             TC405  (RuntimeError)    its deadline passed before it could start
        ├── ResultNotKept          TC406  (RuntimeError)    results of this task are not stored
        ├── LetterNotFound         TC407  (LookupError)     no dead letter with that id, or it cannot be replayed
        ├── UnreadableRecord       TC408  (ValueError)      a record in the store is none of taskcore's, or newer
        └── WrongTask              TC409  (ValueError)      the id belongs to a job of another task

Each class also derives from the fitting builtin, so plain ``except TypeError`` works. The text of an
error always says what happened, the facts, and what to do; the parts are attributes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypedDict, Unpack

__all__ = [
    "AdapterMissing", "AppNotFound", "BrokerError", "BrokerUnavailable", "ContractError", "DuplicateTask",
    "EnqueueRefused", "EnqueueUncertain", "FeatureRefused", "InvalidArguments", "InvalidContract", "InvalidName",
    "InvalidSetting", "InvalidURL", "JobCancelled", "JobError", "JobExpired", "JobFailed", "KeyConflict", "LeaseLost",
    "LetterNotFound", "MalformedEnvelope", "NotRunning", "PayloadTooLarge", "ResultNotKept", "ResultTimeout",
    "SetupError", "StoreRefused", "StoreRequired", "TaskcoreError", "UnencodableResult",
    "UnreadableRecord", "UnsafeBroker", "WrongTask",
]  # fmt: skip


class Details(TypedDict, total=False):
    """The parts of an error's text, besides its first sentence."""

    facts: Sequence[str]
    fix: str | None
    public_facts: Sequence[str] | None


class TaskcoreError(Exception):
    """Base of all errors of taskcore; ``str(error)`` is the full text that a person should read.

    :param what: one sentence: what happened.
    :param facts: lines with the details, one thing each.
    :param fix: what to do about it.
    :param public_facts: the facts as they may be logged, without values of arguments and results; default: the facts.
    """

    code: ClassVar[str] = "TC000"

    def __init__(
        self, what: str, *, facts: Sequence[str] = (), fix: str | None = None, public_facts: Sequence[str] | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix
        self.facts = tuple(facts)
        self.public_facts = self.facts if public_facts is None else tuple(public_facts)

    def __str__(self) -> str:
        fix = [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join([f"[{self.code}] {self.what}", *(f"  {fact}" for fact in self.facts), *fix])

    def with_facts(self, *facts: str) -> Self:
        """Return a copy of the error with more facts."""
        return self._copy(facts=(*self.facts, *facts), public_facts=(*self.public_facts, *facts))

    def public(self) -> Self:
        """Return the error as it may be recorded: without values, and without causes whose texts may hold them."""
        return self._copy(facts=self.public_facts).with_traceback(self.__traceback__)

    def _copy(self, **changes: Any) -> Self:
        copy = type(self).__new__(type(self))  # not by the constructor, which may take more than `args` has
        copy.args = self.args
        copy.__dict__.update(self.__dict__, **changes)
        return copy


class SetupError(TaskcoreError):
    """The program is put together wrongly; raised before any job runs."""


class AppNotFound(SetupError, ImportError):
    """The app that a command names cannot be imported, or is not an App."""

    code = "TC101"


class AdapterMissing(SetupError, ImportError):
    """No adapter is installed for a URL's scheme; the fix is the exact install command."""

    code = "TC102"


class InvalidURL(SetupError, ValueError):
    """A URL that cannot be understood: unknown scheme, unknown option, impossible value."""

    code = "TC103"


class InvalidSetting(SetupError, ValueError):
    """An option or a configuration key with an impossible value, or one that does not exist."""

    code = "TC104"


GIVE_A_STORE = (
    'give it one: App("amqp://…", store="redis://localhost:6379/0")   # also postgresql://…, nats://…\n'
    '  or, on one machine, a file: App("amqp://…", store="sqlite:///taskcore.db")'
)


class StoreRequired(SetupError, ValueError):
    """A key, a result or a cancellation needs a store and the app has none."""

    code = "TC105"

    def __init__(self, what: str, **details: Unpack[Details]) -> None:
        details.setdefault("fix", GIVE_A_STORE)
        super().__init__(what, **details)


class NotRunning(SetupError, RuntimeError):
    """The app is not open here, or a blocking call was made where it would block an event loop."""

    code = "TC106"


class FeatureRefused(SetupError, ValueError):
    """The broker cannot do what a task or a call asks; refused early so that it cannot fail silently."""

    code = "TC501"


class UnsafeBroker(SetupError, RuntimeError):
    """The app is strict, and settings of its broker or store break guarantees: ``unsafe``, as DiagnosticChecks."""

    code = "TC502"

    def __init__(self, what: str, *, unsafe: Sequence[Any] = (), **details: Unpack[Details]) -> None:
        super().__init__(what, **details)
        self.unsafe = tuple(unsafe)


class BrokerError(TaskcoreError):
    """The broker or the store did not do what it was asked. ``jobs``: as in KeyConflict."""

    jobs: Sequence[Any] = ()


class BrokerUnavailable(BrokerError, ConnectionError):
    """The broker or the store cannot be reached now, for ``gone_for`` seconds, as far as is known.

    A call that sends jobs has surely sent none; a worker's call may have been carried out, and is repeated safely.
    """

    code = "TC201"
    gone_for = 0.0


class EnqueueUncertain(BrokerError, TimeoutError):
    """The job may or may not be stored. Repeat it with the same job id or key.

    Where ``features.dedup`` is absent, that may give two jobs: with a store they have one outcome, with a key one run.
    Elsewhere it gives one. ``job_ids`` names the jobs in doubt.
    """

    code = "TC202"

    def __init__(self, what: str, *, job_ids: Sequence[str] = (), **details: Unpack[Details]) -> None:
        super().__init__(what, **details)
        self.job_ids = tuple(job_ids)


class EnqueueRefused(BrokerError, RuntimeError):
    """The job is surely not stored: the queue is full, cannot be found, …; the text says which."""

    code = "TC203"


class LeaseLost(BrokerError, RuntimeError):
    """The lease of a delivery ran out, so another worker may hold it; nothing durable was changed (C7)."""

    code = "TC204"


class StoreRefused(BrokerError, ValueError):
    """The store never takes this record: its value is too large, or its name too long. Of its batch, none is sure."""

    code = "TC205"


class ContractError(TaskcoreError):
    """Values and signatures do not fit together."""


class InvalidArguments(ContractError, TypeError):
    """A call whose arguments do not fit the task's contract; nothing was sent (C24).

    :ivar only_unknown: they fit but for parameters that this version does not have, so a newer one may take them.
    """

    code = "TC302"
    only_unknown = False


class InvalidContract(ContractError, TypeError):
    """A function whose signature or options cannot be a task's contract; raised when it is decorated."""

    code = "TC303"


class UnencodableResult(ContractError, TypeError):
    """A function succeeded, but what it returned does not fit its contract."""

    code = "TC304"


class DuplicateTask(ContractError, ValueError):
    """Two tasks claim one name."""

    code = "TC306"


class PayloadTooLarge(ContractError, ValueError):
    """The arguments are larger than the payload limit; nothing was sent."""

    code = "TC307"


class InvalidName(ContractError, ValueError):
    """A task, queue or header name that cannot travel safely on every broker."""

    code = "TC308"


class MalformedEnvelope(ContractError, ValueError):
    """Bytes that are not an envelope of a known format."""

    code = "TC309"


class JobError(TaskcoreError):
    """What a caller learns about a job that did not simply succeed."""

    def __init__(self, what: str, *, job_id: str = "", **details: Unpack[Details]) -> None:
        super().__init__(what, **details)
        self.job_id = job_id


class ResultTimeout(JobError, TimeoutError):
    """No outcome within the given time; the text says what the job is doing, as far as can be known."""

    code = "TC401"


class KeyConflict(JobError, ValueError):
    """An idempotency key was used again with other arguments; nothing was sent.

    ``jobs``, after ``enqueue_many``: a Job or None for each call, in order.
    """

    code = "TC402"
    jobs: Sequence[Any] = ()


class JobFailed(JobError, RuntimeError):
    """The job ended without a value. ``error`` is the typed error if the task declares it in ``raises``.

    ``reason`` is the reason of the dead letter; ``record`` holds type, message, place and time of the last error.
    """

    code = "TC403"

    def __init__(
        self,
        what: str,
        *,
        job_id: str = "",
        error: BaseException | None = None,
        reason: str = "",
        record: Any = None,
        **details: Unpack[Details],
    ) -> None:
        super().__init__(what, job_id=job_id, **details)
        self.error = error
        self.reason = reason
        self.record = record


class JobCancelled(JobError, RuntimeError):
    """The job was cancelled before it started, so there is no result."""

    code = "TC404"


class JobExpired(JobError, RuntimeError):
    """The deadline of the job passed before it could start."""

    code = "TC405"


class ResultNotKept(JobError, RuntimeError):
    """Results of this task are not stored, so a caller cannot wait for one."""

    code = "TC406"


class LetterNotFound(JobError, LookupError):
    """There is no dead letter with that id, or it does not hold an envelope that could be replayed."""

    code = "TC407"


class UnreadableRecord(JobError, ValueError):
    """A record in the store cannot be read: another program or a newer version wrote it. ``jobs``: see KeyConflict."""

    code = "TC408"
    jobs: Sequence[Any] = ()


class WrongTask(JobError, ValueError):
    """The id belongs to a job of another task; its caller learns nothing of it. ``jobs``: as in KeyConflict."""

    code = "TC409"
    jobs: Sequence[Any] = ()
