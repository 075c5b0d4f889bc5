"""Brings job rows into line with the scheduler and the store, a tick at a time, in one thread of one gateway.

A tick submits what was accepted, looks once at everything the scheduler has, verifies what is done and cleans up. No
database transaction is open while the scheduler or the store is asked, and a look that fails changes no job.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from divbase_gateway.db import jobs as job_rows
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import (
    NotFound,
    SchedulerUnavailable,
    StoreUnavailable,
    SubmissionRefused,
    SubmissionUnknown,
    Unavailable,
)
from divbase_gateway.domain.jobs import Phase, phase_of
from divbase_gateway.ports import ArrayScheduler, Clock, ObjectStore, Observation, Scheduler, SlurmRef, array_of
from divbase_gateway.services import (
    aftermath,
    drain,
    leases,
    manifests,
    retention,
    settlement,
    shards,
    sidecars,
    submission,
    uploads,
    waiting,
)
from divbase_gateway.services.collection import Collector
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.turns import Turns

log = structlog.get_logger()

_LEASE = "reconciler"
_SUBMISSIONS_A_TICK = 200
_SUBMITTING_S = 30.0
_LOOSE_ENDS_A_TICK = 200
_REMOVALS_A_TICK = 50
_BETWEEN_COPIES = timedelta(seconds=10)
"""How often is looked for files that want a BCF copy: their projects are read whole."""


@dataclass(frozen=True)
class Pace:
    """How often to tick: `busy` seconds between ticks while there are open jobs, `idle` while there are none.

    Who wakes the reconciler has it submit at once, but look at the scheduler no sooner than `between_looks` seconds
    after the last look: a cluster answers a user only so many questions. `submissions` are under way at a time.
    """

    busy: float = 1.0
    idle: float = 5.0
    between_looks: float = 0.0
    submissions: int = 1


class Reconciler:
    """One per gateway process; at any time one process of all leads (a lease in the database) and does the work."""

    def __init__(
        self,
        database: Database,
        scheduler: Scheduler,
        store: ObjectStore,
        clock: Clock,
        policy: JobPolicy,
        pace: Pace,
        holder: str,
        housekeeping: Callable[[datetime], None] = lambda now: None,
    ):
        self._database = database
        self._scheduler = scheduler
        self._store = store
        self._collector = Collector(database, store)
        self._clock = clock
        self._policy = policy
        self._pace = pace
        self._holder = holder
        self._housekeeping = housekeeping
        self._housekept_at: datetime | None = None
        self._let_go_at: datetime | None = None
        self._copied_at: datetime | None = None
        self._shards_to_clear: Sequence[int] = ()
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._leads = False
        self._lease = timedelta(seconds=max(30.0, 3 * pace.busy, 2 * pace.idle))
        self._renewed_at = clock.now()
        self._next_look = 0.0
        self._look_is_due = False
        # When the last unbroken row of successful answers began: nothing is known to be absent from before.
        self._finding_since: datetime | None = None
        self._looking_since: datetime | None = None

    # --- the thread ---

    def start(self) -> None:
        """Tick in a thread of its own until `stop`."""
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to do now; do not wait for the next tick."""
        self._awake.set()

    def stop(self) -> None:
        """Finish the tick and give up the lease."""
        self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._leads:
            try:
                with self._database.write() as session:
                    leases.release(session, _LEASE, self._holder)
            except Unavailable as error:
                log.warning("lease.not_released", error=str(error))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.clear()
            busy = self._tick_safely()
            self._awake.wait(self._rest(busy))

    def _rest(self, busy: bool) -> float:
        """Seconds until the next tick: sooner where this one was woken too early to look."""
        if not busy:
            return self._pace.idle
        too_early = self._next_look - time.monotonic()
        return min(self._pace.busy, too_early) if self._look_is_due and too_early > 0 else self._pace.busy

    def _tick_safely(self) -> bool:
        try:
            return self.tick()
        except Unavailable as error:
            log.warning("tick.unavailable", error=str(error))
        except Exception:  # the thread must outlive any fault of one tick; the fault is logged whole
            log.exception("tick.failed")
        return True

    # --- one tick ---

    def tick(self) -> bool:
        """Do everything that can be done now. True if there are open jobs left.

        Raises:
            DatabaseUnavailable: nothing was done; the next tick starts from the rows as they are.
        """
        if not self._lead():
            return False
        for step in (self._submit_accepted, self._search_unknown, self._look, self._settle_shards, self._clean_up):
            if self._still_leads():
                step()
        with self._database.read() as session:
            return job_rows.count_open_jobs(session) > 0

    def _lead(self) -> bool:
        now = self._clock.now()
        with self._database.write() as session:
            leads = leases.acquire(session, _LEASE, self._holder, now, self._lease)
            # Between two ticks nobody waits for an answer: who did is gone, or could not write the answer down.
            interrupted = submission.mark_interrupted(session, now) if leads else 0
        if interrupted or (leads and not self._leads):
            log.info("reconciler.leads", holder=self._holder, interrupted=interrupted)
        self._leads, self._renewed_at = leads, now
        return leads

    def _still_leads(self) -> bool:
        """Within a tick: the lease is renewed long before it ends, however long a scheduler takes to answer."""
        now = self._clock.now()
        if now - self._renewed_at > self._lease / 3:
            with self._database.write() as session:
                self._leads = leases.acquire(session, _LEASE, self._holder, now, self._lease)
            self._renewed_at = now
            if not self._leads:
                log.warning("reconciler.lead_lost", holder=self._holder)
        return self._leads

    # --- submission ---

    def _submit_accepted(self) -> None:
        with self._database.read() as session:
            held_back = drain.current(session) is not None
            waiting = [] if held_back else job_rows.next_to_submit(session, _SUBMISSIONS_A_TICK)
            takes_arrays = isinstance(self._scheduler, ArrayScheduler)
            groups = submission.together(session, waiting) if takes_arrays else [[each] for each in waiting]
        turns, until = Turns(groups), time.monotonic() + _SUBMITTING_S
        threads = min(self._pace.submissions, len(waiting))
        if threads > 1:
            with ThreadPoolExecutor(threads, thread_name_prefix="submission") as pool:
                rows = [pool.submit(self._submit_in_turn, turns, until) for _ in range(threads)]
            outcomes = [row.result() for row in rows]
        else:
            outcomes = [self._submit_in_turn(turns, until)]
        if all(outcomes) and (time.monotonic() >= until or len(waiting) == _SUBMISSIONS_A_TICK):
            self.wake()  # the rest follows after a look at those that are out

    def _submit_in_turn(self, turns: Turns, until: float) -> bool:
        """Submit what is handed out; False when the scheduler does not answer or another one leads now."""
        while not self._stopping.is_set() and time.monotonic() < until and (jobs := turns.next()) is not None:
            try:
                goes_on = self._still_leads() and self._submit(jobs)
            except BaseException:
                turns.stop()
                raise
            if not goes_on:
                turns.stop()
                return False
        return True

    def _submit(self, job_ids: Sequence[int]) -> bool:
        """Submit one job, or several as one array; False when the scheduler does not answer and there is no point in
        going on in this tick."""
        tickets = self._open_attempts(job_ids)
        if not tickets:
            return True
        name = ", ".join(each.submission.name for each in tickets)
        try:
            for place, ticket in enumerate(tickets):
                tickets[place] = self._sign(ticket)
            refs = self._hand_over(tickets)
        except SubmissionRefused as error:
            log.warning("job.refused", name=name, error=str(error))
            self._withdraw(tickets)
            with self._database.write() as session:
                for each in tickets:
                    number, now = each.attempt_number, self._clock.now()
                    submission.record_refused(session, each.job_id, number, error, self._policy, now)
        except (SchedulerUnavailable, StoreUnavailable) as error:
            log.warning("job.not_sent", name=name, error=str(error))
            self._withdraw(tickets)
            with self._database.write() as session:
                for each in tickets:
                    submission.record_not_sent(session, each.job_id, each.attempt_number, self._clock.now())
            return False
        except Exception as error:  # whatever else happened, the job may be there: look before doing anything
            if not isinstance(error, SubmissionUnknown):
                log.exception("job.submission_fault", name=name)
            log.warning("job.submission_unknown", name=name, error=str(error))
            with self._database.write() as session:
                for each in tickets:
                    submission.record_unknown(session, each.job_id, each.attempt_number, self._clock.now())
            return False
        else:
            with self._database.write() as session:
                for each, ref in zip(tickets, refs, strict=True):
                    log.info("job.submitted", name=ref.name, slurm_id=ref.job_id)
                    submission.record_submitted(session, each.job_id, each.attempt_number, ref, self._clock.now())
        return True

    def _hand_over(self, tickets: Sequence[submission.Ticket]) -> list[SlurmRef]:
        """The references of the tickets' jobs, in their order."""
        tasks = all(array_of(each.submission.name) != each.submission.name for each in tickets)
        if not tasks or not isinstance(self._scheduler, ArrayScheduler):
            return [self._scheduler.submit(each.submission) for each in tickets]
        refs = {ref.name: ref for ref in self._scheduler.submit_array(submission.array_of(tickets))}
        return [refs[each.submission.name] for each in tickets]

    def _open_attempts(self, job_ids: Sequence[int]) -> list[submission.Ticket]:
        try:
            with self._database.write() as session:
                if len(job_ids) > 1:
                    return submission.open_attempts(session, job_ids, self._policy, self._clock.now())
                ticket = submission.open_attempt(session, job_ids[0], self._policy, self._clock.now())
                return [] if ticket is None else [ticket]
        except Unavailable:
            raise
        except Exception:  # a job that cannot be written as a script must not hold up those behind it
            log.exception("job.without_script", job_ids=list(job_ids))
            with self._database.write() as session:
                for job_id in job_ids:
                    submission.record_impossible(session, job_id, self._clock.now())
            return []

    def _sign(self, ticket: submission.Ticket) -> submission.Ticket:
        signed = submission.sign(ticket, self._store, self._policy)
        if signed.uploads:
            with self._database.write() as session:
                submission.record_uploads(session, signed)
        return signed

    def _withdraw(self, tickets: Sequence[submission.Ticket]) -> None:
        """End what was begun at the store for a submission that came to nothing."""
        for ticket in tickets:
            if ticket.unsigned is None:
                continue
            try:
                manifests.abort_uploads(self._store, ticket.unsigned, list(ticket.uploads))
            except StoreUnavailable as error:
                log.warning("upload.not_aborted", name=ticket.submission.name, error=str(error))

    def _search_unknown(self) -> None:
        with self._database.read() as session:
            searches = submission.searches(session)
        for search in searches:
            if not self._still_leads():
                return
            try:
                found = self._scheduler.find(search.name, search.since)
            except SchedulerUnavailable as error:
                log.warning("search.unavailable", name=search.name, error=str(error))
                self._finding_since = None
                return
            log.info("job.searched", name=search.name, found=[ref.job_id for ref in found])
            now = self._clock.now()
            self._finding_since = self._finding_since or now
            if not found and not self._is_closed(search, now, self._finding_since):
                continue
            with self._database.write() as session:
                submission.record_search(session, search, found, self._policy, now, self._finding_since)

    def _is_closed(self, search: submission.Search, now: datetime, answering_since: datetime) -> bool:
        """Whether nothing speaks against giving the attempt up, if its quiet period is over."""
        try:
            closed = submission.close(search, self._store, self._policy, now, answering_since)
        except (StoreUnavailable, NotFound) as error:  # also where the bucket is gone
            log.warning("claim.not_closed", name=search.name, error=str(error))
            return False
        if not closed:
            log.warning("job.runs_unseen", name=search.name)
        return closed

    # --- looking ---

    def _look(self) -> None:
        self._look_is_due = time.monotonic() < self._next_look
        if self._look_is_due:
            return
        with self._database.read() as session:
            tracked = settlement.tracked_attempts(session)
        if not tracked:
            return
        self._next_look = time.monotonic() + self._pace.between_looks
        self._send_cancellations(tracked)
        looked_at = self._clock.now()
        try:
            observation = self._scheduler.observe([each.ref for each in tracked])
        except SchedulerUnavailable as error:
            log.warning("look.unavailable", error=str(error))
            self._looking_since = None
            with self._database.write() as session:
                settlement.record_overdue(session, self._policy, self._clock.now())
            return
        tracked, unread = self._collector.collect(tracked, observation, self._clock.now())
        verdicts = self._verify(tracked, observation)
        self._record(tracked, observation, verdicts, unread, looked_at)

    def _send_cancellations(self, tracked: list[settlement.Tracked]) -> None:
        """Tell the scheduler which jobs users want ended, tasks of one array together."""
        wanted: dict[str, list[settlement.Tracked]] = defaultdict(list)
        for each in tracked:
            if each.cancel_wanted and not each.cancel_sent:
                wanted[array_of(each.ref.name)].append(each)
        for name, told in wanted.items():
            try:
                self._scheduler.cancel(*(each.ref for each in told))
            except SchedulerUnavailable as error:
                log.warning("cancel.unavailable", name=name, error=str(error))
                return
            log.info("job.cancel_sent", name=name, slurm_ids=[each.ref.job_id for each in told])
            with self._database.write() as session:
                for each in told:
                    settlement.record_cancel_sent(session, each, self._clock.now())

    def _verify(self, tracked: list[settlement.Tracked], observation: Observation) -> dict[int, settlement.Verdict]:
        """Job id -> the store's word, for those that the scheduler calls completed and that have reported."""
        verdicts: dict[int, settlement.Verdict] = {}
        for each in tracked:
            sighting = observation.seen.get(each.ref)
            if sighting is None or each.reported is None or phase_of(sighting.state) is not Phase.COMPLETED:
                continue
            try:
                with _alone("job.look_failed", name=each.ref.name):
                    verdicts[each.job_id] = settlement.verify(self._database, self._store, each, sighting)
            except StoreUnavailable as error:
                log.warning("verify.unavailable", name=each.ref.name, error=str(error))
        return verdicts

    def _record(
        self,
        tracked: list[settlement.Tracked],
        observation: Observation,
        verdicts: dict[int, settlement.Verdict],
        unread: frozenset[int],
        looked_at: datetime,
    ) -> None:
        now = self._clock.now()
        self._looking_since = looking_since = self._looking_since or now
        with self._database.write() as session:
            seen: list[int] = []
            unseen: list[int] = []
            for each in tracked:
                (seen if each.ref in observation.seen else unseen).append(each.job_id)
            job_rows.mark_seen(session, seen, unseen, now)
            settled = waiting.record_waiting(session, tracked, observation, now)
        if observation.unjudged:
            self._looking_since = None  # a look that did not see everything ends the row
        for each in tracked:
            if each.job_id in settled or each.ref in observation.unjudged:
                continue
            sighting = observation.seen.get(each.ref)
            if not settlement.is_news(each, sighting, self._policy, now, looking_since):
                continue
            with _alone("job.look_failed", name=each.ref.name), self._database.write() as session:
                ended = settlement.record_sighting(
                    session,
                    each,
                    sighting,
                    verdicts.get(each.job_id),
                    self._policy,
                    now,
                    looking_since,
                    looked_at=looked_at,
                    unread=each.job_id in unread,
                )
                if ended is not None:
                    log.info("job.ended", job=ended.public_id, state=ended.state, reason=ended.reason)

    def _settle_shards(self) -> None:
        """End queries whose shards failed, and have those whose shards are all there submitted."""
        now = self._clock.now()
        due = shards.due(self._database, now, _LOOSE_ENDS_A_TICK)
        self._shards_to_clear = due.to_clear
        for parent_id in due.to_settle:
            with _alone("query.settling_failed", job_id=parent_id):
                if shards.settle(self._database, parent_id, now):
                    self.wake()

    # --- afterwards ---

    def _clean_up(self) -> None:
        """Give indexes and copies to files that waited for them, logs to ended jobs; let the jobs' directories go."""
        now = self._clock.now()
        with _or_later("indexes"):
            aftermath.settle_indexes(self._database, self._store, _LOOSE_ENDS_A_TICK)
        self._look_after_copies(now)
        with _or_later("directories"):
            aftermath.discard_directories(self._database, self._scheduler, self._store, _LOOSE_ENDS_A_TICK, now)
        with _or_later("shards"):
            shards.clear(self._database, self._store, self._shards_to_clear, now)
        if self._housekept_at is None or now - self._housekept_at > timedelta(hours=1):
            self._housekeeping(now)
            self._housekept_at = now
        if self._let_go_at is None or now >= self._let_go_at:
            self._let_go_at = now + self._let_go(now)

    def _let_go(self, now: datetime) -> timedelta:
        """Remove results whose time is over, and uploads that nobody goes on with; how long to wait for the next time.

        A tick takes a few of them: others wait for it.
        """
        done: list[int] = []
        retention.follow_site(self._database, self._policy, now)
        with _or_later("removal"):
            done.append(retention.remove_expired(self._database, self._store, now, _REMOVALS_A_TICK))
        with _or_later("uploads"):
            done.append(uploads.give_up(self._database, self._store, now, _REMOVALS_A_TICK))
        if len(done) < 2:
            return timedelta(minutes=5)
        return timedelta(0) if max(done) >= _REMOVALS_A_TICK else timedelta(hours=1)

    def _look_after_copies(self, now: datetime) -> None:
        sweep = self._copied_at is None or now - self._copied_at >= _BETWEEN_COPIES
        self._copied_at = now if sweep else self._copied_at
        with _or_later("sidecars"):
            sidecars.look_after(self._database, self._store, _LOOSE_ENDS_A_TICK, now, sweep=sweep)


@contextmanager
def _or_later(step: str) -> Iterator[None]:
    """What the store refuses of a step waits for a later tick, and the steps after it do not."""
    try:
        yield
    except StoreUnavailable as error:
        log.warning(f"{step}.unavailable", error=str(error))


@contextmanager
def _alone(event: str, **facts: object) -> Iterator[None]:
    """A fault that one job's rows bring about is logged whole and left with that job; the others go on."""
    try:
        yield
    except Unavailable:
        raise
    except Exception:
        log.exception(event, **facts)
