"""What clients do in the model: enqueue, repeat, cancel, replay; and what strangers put into the queue."""

from __future__ import annotations

from typing import Any

import msgspec

from taskcore.backend import Letter
from taskcore.conformance.model.connection_faults import Cut
from taskcore.conformance.model.job import ABSENT, GONE, Broken, Tale
from taskcore.conformance.model.state import Scene
from taskcore.conformance.model.system import CLIENT, STRANGER
from taskcore.envelope import FORMAT, Envelope, decode_envelope, decode_trail, encode_envelope
from taskcore.errors import BrokerUnavailable, EnqueueUncertain, KeyConflict
from taskcore.testing.crash_points import SimulatedCrash

__all__ = ["Sending"]

NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Sending(Scene):
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
        cut: Cut | None = None,
    ) -> Tale:
        """A new job. Times in units; ``clash``: other arguments than the key was used with before."""
        name = NAMES[len(self.tales) % 26] + "'" * (len(self.tales) // 26)
        word = f"{key or name}{'!' if clash else ''}"
        tale = self._tale(name, f"{self.world.stage.mark}-{name}", word, key=key, once=once)
        extras = [f"key {key}"] if key else []
        extras += [f"delay {delay}"] if delay else []
        extras += [f"expires {expires}"] if expires is not None else []
        extras += ["at most once"] if once else []
        self.tell(f"enqueue {name}" + (f" ({', '.join(extras)})" if extras else ""))
        self.tales.append(tale)
        self._send(tale, delay, expires, crash, cut)
        return tale

    def _tale(self, name: str, job_id: str, word: str, *, key: str | None, once: bool) -> Tale:
        features = self.world.stage.features
        return Tale(name, job_id, word, key=key, once=once, margin=self.margin, features=features)

    def again(self, tale: Tale, *, crash: int | None = None, cut: Cut | None = None) -> None:
        """The same job once more, by its id."""
        self.tell(f"enqueue {tale.name} again")
        self._send(tale, 0, None, crash, cut)

    def _send(self, tale: Tale, delay: int, expires: int | None, crash: int | None, cut: Cut | None) -> None:
        unit = self.world.unit
        task = self.world.once if tale.once else self.world.work
        using = task.using(
            id=tale.id,
            key=None if tale.key is None else f"{self.world.stage.mark}-{tale.key}",
            delay=delay * unit,
            expires=None if expires is None else expires * unit,
        )
        self.world.line.cut("publish", cut)
        answer: Any = None
        try:
            answer = self.run(self.world.enqueue, using.call(tale.word), crash=crash)
        except SimulatedCrash as crashed:
            self.tell(f"the client dies at {crashed.point}")
            self.run(self.world.die, CLIENT)
        except EnqueueUncertain:
            self.tell("no answer")
            self.told["job.uncertain"] += 1
        except BrokerUnavailable:
            self.tell("no connection")
        except KeyConflict:
            self.tell("the key was used with other arguments")
            self.told["key.conflict"] += 1
            if all(other.word == tale.word for other in self.same_key(tale)):
                tale.broken("C10", "was refused for its key, which nobody used with other arguments")
        self.world.line.heal()
        if expires is not None and tale.states == {ABSENT}:
            tale.deadline = self.now() + expires * unit
        if answer is None:
            for one in (tale, *self.same_key(tale)):
                one.published(self.now() + delay * unit, certain=False)
        else:
            self._answered(tale, answer.id, delay * unit)

    def _answered(self, tale: Tale, job_id: str, delay: float) -> None:
        found = next((one for one in (tale, *self.same_key(tale)) if one.id == job_id), None)
        if found is None:
            tale.broken("C10", f"got the handle of a stranger, {job_id}")
        if found is tale:
            self._check_key_is_new(tale)
        else:
            self.tell(f"it is {found.name}")
            if found.is_over and found.ending is not None and not found.has_committed and not found.disturbed:
                tale.broken("C10", f"got the handle of {found.name}, which ended as {found.ending.state}")
        new = ABSENT in found.states
        found.published(self.now() + delay, certain=True)
        if found.key is not None and new:
            found.deadline_of_key = self.now() + self.world.key_window

    def _check_key_is_new(self, tale: Tale) -> None:
        for other in self.same_key(tale):
            if self.now() < other.deadline_of_key and ABSENT in tale.states:
                tale.broken("C10", f"was taken for new, but its key is {other.name}'s")

    def twin(self, tale: Tale) -> None:
        """Somebody who does not ask for claims sends another job with the same key."""
        name = f"{tale.name}+"
        while any(other.name == name for other in self.tales):
            name += "+"
        self.tell(f"a stranger enqueues {name} with the key of {tale.name}")
        twin = self._tale(name, f"{self.world.stage.mark}-{name}", tale.word, key=tale.key, once=False)
        task = self.world.work
        call = task.using(key=f"{self.world.stage.mark}-{tale.key}").call(tale.word)
        envelope = encode_envelope(
            Envelope(
                v=FORMAT,
                id=twin.id,
                task=task.name,
                queue=self.world.queue,
                args=msgspec.Raw(call.payload),
                enqueued_at=self.now(),
                key=call.key,
            )
        )
        self.run(self.world.publish_raw, twin.id, envelope, by=STRANGER)
        twin.published(self.now(), certain=True)
        self.tales.append(twin)

    # ── cancelling ──

    def cancel(self, tale: Tale, *, crash: int | None = None) -> None:
        """Keep a job from starting."""
        self.tell(f"cancel {tale.name}")
        waited = tale.surely_waits and (tale.hold is None or self.now() >= tale.hold.until + self.margin)
        waited = waited and self.now() >= self.dark_until
        task = self.world.once if tale.once else self.world.work
        key = None if tale.key is None else f"{self.world.stage.mark}-{tale.key}"
        job = type(task.job(tale.id))(tale.id, task, self.world.queue, key)
        self.forget_key(tale)
        tale.disturbed = True
        had_ended = tale.ending is not None
        tale.asked = True
        try:
            cancelled = self.run(job.cancel, crash=crash)
        except SimulatedCrash as crashed:
            self.tell(f"the client dies at {crashed.point}")
            self.run(self.world.die, CLIENT)
            if crashed.point != "cancel.marked":
                self._removed(tale)
            return
        if cancelled:
            self.told["job.cancelled"] += 1
            self._removed(tale)
            tale.cancelled = True
            if self.world.store is not None and (ending := self.run(self.world.ending, tale.id)) is None:
                tale.broken("C14", f"was cancelled, and nothing says so: {ending}")
        else:
            self.tell("too late")
            if waited and not had_ended and self.exact:
                tale.broken("C14", "only waits, and cannot be cancelled")

    def _removed(self, tale: Tale) -> None:
        if tale.may_wait or ABSENT in tale.states:
            tale.states = {GONE}

    # ── dead letters ──

    def letters_of(self, tale: Tale) -> list[Letter]:
        """The dead letters of one job, as the broker has them."""
        letters: list[Letter] = self.run(self.world.letters)
        return [letter for letter in letters if letter.envelope not in self.foreign and self._is_of(letter, tale)]

    def _is_of(self, letter: Letter, tale: Tale) -> bool:
        return decode_envelope(letter.envelope).id == tale.id

    def check_letter(self, tale: Tale) -> None:
        """If it is buried for sure, its letter is complete."""
        if len(tale.states) == 1 and next(iter(tale.states)).place == "buried":
            tale.check_letter(self.letters_of(tale), self.world.line.sent[tale.id])

    def replay(self, tale: Tale) -> None:
        """Send a buried job again: C13."""
        [letter] = self.letters_of(tale)
        old = decode_envelope(letter.envelope)
        new_id = self.run(self.world.app.dead_letters.replay, letter.id)
        name = f"{tale.name}²"
        self.tell(f"replay {tale.name} as {name}")
        new = self._tale(name, new_id, tale.word, key=tale.key, once=tale.once)
        new.published(self.now(), certain=True)
        new.replays = old
        self.tales.append(new)
        tale.states, tale.replayed = {GONE}, True
        if self.letters_of(tale):
            tale.broken("C13", "was replayed, and its dead letter is still there")

    def check_replayed(self, tale: Tale, envelope: bytes, trail: bytes) -> None:
        """A new incarnation differs from the old one in nothing but its id, its times and its link back."""
        old, new = tale.replays, decode_envelope(envelope)
        if old is None or self.world.line.sent[tale.id]:
            return
        same = ("task", "version", "queue", "args", "key", "source", "headers")
        differs = [name for name in same if getattr(old, name) != getattr(new, name)]
        if differs or decode_trail(trail).replay_of != old.id or new.correlation_id != (old.correlation_id or old.id):
            tale.broken("C13", f"is a replay with another {', '.join(differs) or 'link'}")
        self.world.line.sent[tale.id].add(envelope)

    # ── strangers ──

    def put_foreign(self, data: bytes) -> None:
        """Somebody else puts bytes into our queue."""
        self.tell(f"a stranger puts {data!r} into the queue")
        self.foreign.add(data)
        name = f"{self.world.stage.mark}-stranger-{len(self.foreign)}"
        self.run(self.world.publish_raw, name, data, by=STRANGER)

    def check_foreign(self, data: bytes) -> None:
        """Bytes that cannot be read are a dead letter as they came (C20)."""
        if not any(letter.envelope == data for letter in self.run(self.world.letters)):
            raise Broken("C20", f"the bytes {data!r} are not in their dead letter")
