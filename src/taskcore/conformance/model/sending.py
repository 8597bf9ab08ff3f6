"""What clients do in the model: enqueue, repeat, cancel, replay; and what strangers put into the queue."""

from __future__ import annotations

from typing import Any

import msgspec

from taskcore.backend import Letter
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.model.connection_faults import LostPart
from taskcore.conformance.model.job import ABSENT, GONE, JobModel
from taskcore.conformance.model.state import ModelState
from taskcore.conformance.model.system import CLIENT, STRANGER
from taskcore.envelope import FORMAT, Envelope, decode_envelope, decode_trail, encode_envelope
from taskcore.errors import BrokerUnavailable, EnqueueUncertain, KeyConflict
from taskcore.testing.crash_points import SimulatedCrash

__all__ = ["Sending"]

JOB_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Sending(ModelState):
    """The clients' verbs."""

    def enqueue(
        self,
        *,
        key: str | None = None,
        delay: int = 0,
        expires: int | None = None,
        once: bool = False,
        clash: bool = False,
        crash: int | None = None,
        cut: LostPart | None = None,
    ) -> JobModel:
        """Enqueue a new job. Times in units; ``clash``: other arguments than the key was used with before."""
        name = JOB_NAMES[len(self.models) % 26] + "'" * (len(self.models) // 26)
        word = f"{key or name}{'!' if clash else ''}"
        model = self._make_model(name, f"{self.system.harness.mark}-{name}", word, key=key, once=once)
        extras = [f"key {key}"] if key else []
        extras += [f"delay {delay}"] if delay else []
        extras += [f"expires {expires}"] if expires is not None else []
        extras += ["at most once"] if once else []
        self.note(f"enqueue {name}" + (f" ({', '.join(extras)})" if extras else ""))
        self.models.append(model)
        self._send(model, delay, expires, crash, cut)
        return model

    def _make_model(self, name: str, job_id: str, word: str, *, key: str | None, once: bool) -> JobModel:
        features = self.system.harness.features
        return JobModel(name, job_id, word, key=key, once=once, margin=self.margin, features=features)

    def again(self, model: JobModel, *, crash: int | None = None, cut: LostPart | None = None) -> None:
        """Enqueue the same job once more, by its id."""
        self.note(f"enqueue {model.name} again")
        self._send(model, 0, None, crash, cut)

    def _send(self, model: JobModel, delay: int, expires: int | None, crash: int | None, cut: LostPart | None) -> None:
        unit = self.system.unit
        task = self.system.once if model.once else self.system.work
        using = task.using(
            id=model.id,
            key=None if model.key is None else f"{self.system.harness.mark}-{model.key}",
            delay=delay * unit,
            expires=None if expires is None else expires * unit,
        )
        self.system.connection.cut("publish", cut)
        answer: Any = None
        try:
            answer = self.run(self.system.enqueue, using.call(model.word), crash=crash)
        except SimulatedCrash as crashed:
            self.note(f"the client dies at {crashed.point}")
            self.run(self.system.die, CLIENT)
        except EnqueueUncertain:
            self.note("no answer")
            self.expected_events["job.uncertain"] += 1
        except BrokerUnavailable:
            self.note("no connection")
        except KeyConflict:
            self.note("the key was used with other arguments")
            self.expected_events["key.conflict"] += 1
            if all(other.word == model.word for other in self.same_key(model)):
                model.violated("C10", "was refused for its key, which no job used with other arguments")
        self.system.connection.heal()
        if expires is not None and model.states == {ABSENT}:
            model.deadline = self.now() + expires * unit
        if answer is None:
            for one in (model, *self.same_key(model)):
                one.published(self.now() + delay * unit, certain=False)
        else:
            self._answered(model, answer.id, delay * unit)

    def _answered(self, model: JobModel, job_id: str, delay: float) -> None:
        found = next((one for one in (model, *self.same_key(model)) if one.id == job_id), None)
        if found is None:
            model.violated("C10", f"got the handle of a stranger, {job_id}")
        if found is model:
            self._check_key_is_new(model)
        else:
            self.note(f"it is {found.name}")
            if found.is_over and found.outcome is not None and not found.has_committed and not found.disturbed:
                model.violated("C10", f"got the handle of {found.name}, which ended as {found.outcome.state}")
        new = ABSENT in found.states
        found.published(self.now() + delay, certain=True)
        if found.key is not None and new:
            found.deadline_of_key = self.now() + self.system.key_window

    def _check_key_is_new(self, model: JobModel) -> None:
        for other in self.same_key(model):
            if self.now() < other.deadline_of_key and ABSENT in model.states:
                model.violated("C10", f"was taken for new, but its key is {other.name}'s")

    def twin(self, model: JobModel) -> None:
        """Send another job with the same key, from a program that does not claim keys."""
        name = f"{model.name}+"
        while any(other.name == name for other in self.models):
            name += "+"
        self.note(f"a stranger enqueues {name} with the key of {model.name}")
        twin = self._make_model(name, f"{self.system.harness.mark}-{name}", model.word, key=model.key, once=False)
        task = self.system.work
        call = task.using(key=f"{self.system.harness.mark}-{model.key}").call(model.word)
        envelope = encode_envelope(
            Envelope(
                v=FORMAT,
                id=twin.id,
                task=task.name,
                queue=self.system.queue,
                args=msgspec.Raw(call.payload),
                enqueued_at=self.now(),
                key=call.key,
            )
        )
        self.run(self.system.publish_raw, twin.id, envelope, by=STRANGER)
        twin.published(self.now(), certain=True)
        self.models.append(twin)

    # ── cancelling ──

    def cancel(self, model: JobModel, *, crash: int | None = None) -> None:
        """Keep a job from starting."""
        self.note(f"cancel {model.name}")
        waited = model.surely_waits and (model.lease is None or self.now() >= model.lease.until + self.margin)
        waited = waited and self.now() >= self.dark_until
        task = self.system.once if model.once else self.system.work
        key = None if model.key is None else f"{self.system.harness.mark}-{model.key}"
        job = type(task.job(model.id))(model.id, task, self.system.queue, key)
        self.forget_key(model)
        model.disturbed = True
        had_ended = model.outcome is not None
        model.cancel_requested = True
        try:
            cancelled = self.run(job.cancel, crash=crash)
        except SimulatedCrash as crashed:
            self.note(f"the client dies at {crashed.point}")
            self.run(self.system.die, CLIENT)
            if crashed.point != "cancel.marked":
                self._removed(model)
            return
        if cancelled:
            self.expected_events["job.cancelled"] += 1
            self._removed(model)
            model.cancelled = True
            if self.system.store is not None and (outcome := self.run(self.system.outcome_of, model.id)) is None:
                model.violated("C14", f"was cancelled, and nothing says so: {outcome}")
        else:
            self.note("too late")
            if waited and not had_ended and self.exact:
                model.violated("C14", "only waits, and cannot be cancelled")

    def _removed(self, model: JobModel) -> None:
        if model.may_wait or ABSENT in model.states:
            model.states = {GONE}

    # ── dead letters ──

    def letters_of(self, model: JobModel) -> list[Letter]:
        """Return the dead letters of one job, as the broker has them."""
        letters: list[Letter] = self.run(self.system.letters)
        return [letter for letter in letters if letter.envelope not in self.foreign and self._is_of(letter, model)]

    def _is_of(self, letter: Letter, model: JobModel) -> bool:
        return decode_envelope(letter.envelope).id == model.id

    def check_letter(self, model: JobModel) -> None:
        """Check that its letter is complete, if it is buried for sure."""
        if len(model.states) == 1 and next(iter(model.states)).place == "buried":
            model.check_letter(self.letters_of(model), self.system.connection.sent[model.id])

    def replay(self, model: JobModel) -> None:
        """Send a buried job again: C13."""
        letter, *others = self.letters_of(model)
        if others:
            model.violated("C13", f"has {len(others)} dead letters too many")
        old = decode_envelope(letter.envelope)
        new_id = self.run(self.system.app.dead_letters.replay, letter.id)
        name = f"{model.name}²"
        self.note(f"replay {model.name} as {name}")
        new = self._make_model(name, new_id, model.word, key=model.key, once=model.once)
        new.published(self.now(), certain=True)
        new.replays = old
        self.models.append(new)
        model.states, model.replayed = {GONE}, True
        if self.letters_of(model):
            model.violated("C13", "was replayed, and its dead letter is still there")

    def check_replayed(self, model: JobModel, envelope: bytes, trail: bytes) -> None:
        """Check that a replay differs from the old job in nothing but its id, its times and its link back."""
        old, new = model.replays, decode_envelope(envelope)
        if old is None or self.system.connection.sent[model.id]:
            return
        same = ("task", "version", "queue", "args", "key", "source", "headers")
        differs = [name for name in same if getattr(old, name) != getattr(new, name)]
        if differs or decode_trail(trail).replay_of != old.id or new.correlation_id != (old.correlation_id or old.id):
            model.violated("C13", f"is a replay with another {', '.join(differs) or 'link'}")
        self.system.connection.sent[model.id].add(envelope)

    # ── strangers ──

    def put_foreign(self, data: bytes) -> None:
        """Put foreign bytes into our queue."""
        self.note(f"a stranger puts {data!r} into the queue")
        self.foreign.add(data)
        name = f"{self.system.harness.mark}-stranger-{len(self.foreign)}"
        self.run(self.system.publish_raw, name, data, by=STRANGER)

    def check_foreign(self, data: bytes) -> None:
        """Check that bytes that cannot be read are a dead letter as they came (C20)."""
        if not any(letter.envelope == data for letter in self.run(self.system.letters)):
            raise ClauseViolated(f"the bytes {data!r} are not in their dead letter", "C20")
