"""How the verbs of other libraries are called here: a migrating program reads it in its first AttributeError."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["explain"]

ENQUEUE = "to send a job: await {own}.enqueue(…), or {own}.sync.enqueue(…)"
ENQUEUE_MANY = "to send many: await app.enqueue_many([{own}.call(…), …])"
CALL = "for a call that is sent later: {own}.call(…)"
RETRY = "to try a job again: raise RetryLater(after=…) in the function"
WORK = "for a worker: await app.run_worker(), or the command `taskcore worker module:app`"
HANDLE = "for a job that was sent: app.job(id), which has result, outcome, status and cancel"
RESULT = "to wait for its value: await job.result(timeout=…), or job.outcome(timeout=…), which does not raise"
STATUS = "to see where it is: await job.status(), or job.outcome(timeout=0) for how it ended"
CANCEL = "to keep it from starting: await job.cancel()"

#: For each kind of object, texts and the names that they explain.
NAMES: Mapping[str, Mapping[str, str]] = {
    "a task": {
        ENQUEUE: "apply_async apply_later async_enqueue defer defer_async delay enqueue_async enqueue_at enqueue_in "
        "kicker kiq push queue schedule send send_with_options submit",
        ENQUEUE_MANY: "bulk chunks delay_many enqueue_many map starmap",
        CALL: "message s si signature subtask",
        RETRY: "retry",
    },
    "an app": {
        ENQUEUE: "add_job apply_async defer delay enqueue enqueue_call enqueue_job push send_task submit",
        ENQUEUE_MANY: "bulk enqueue_all",
        HANDLE: "AsyncResult cancel fetch_job get_job outcome result revoke status",
        WORK: "run run_forever serve start work worker worker_main",
    },
    "a job": {
        RESULT: "get join return_value value wait wait_result",
        STATUS: "done failed finished get_status info is_failed is_finished is_ready ready state successful",
        CANCEL: "abort delete forget kill revoke stop terminate",
    },
}


def explain(kind: str, name: str, own: str) -> str:
    """Return the text of the error about a name that is not there.

    :param own: the name of the task that is asked.
    """
    text = f"{kind} has no attribute {name!r}"
    for hint, names in NAMES[kind].items():
        if name in names.split():
            return f"{text}; {hint.format(own=own)}"
    return text
