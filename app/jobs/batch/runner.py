"""One batch on its way through the queue: its lines go in a few at a time, and what they come to is kept.

Nothing is remembered but what is safe elsewhere: the results on disk, and in Redis which line was submitted as which
job. A line is always submitted under the same idempotency key and the same call id. So another worker can go on at any
point, and no line is lost, run twice or charged twice: it asks what was submitted (`_recover`) and reads on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from app.config.gateway import GatewayConfig
from app.domain.batch import COMPLETION_WINDOW_S, UNFINISHED_STATUSES, BatchLine, InvalidBatchLine, parse_line
from app.domain.identity import Caller
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import Conflict, GatewayError, NotFound, NotReady, RateLimited, StoreUnavailable
from app.gateway.call import CallContext
from app.gateway.callers import Callers
from app.jobs.batch.input_file import CheckedFile, RemainingLines, check
from app.jobs.batch.output_files import OutputFiles
from app.jobs.batch.output_lines import OutputLines
from app.jobs.queue import JobQueue
from app.store.batch_results import BatchResults, LineResult
from app.store.batches import Batch, Batches
from app.store.files import Files

log = structlog.get_logger()
# Between two steps: doubled while nothing happens, up to the one, or the other when nothing is in flight.
_BUSY_S, _WATCHING_S, _CANCEL_S, _IDLE_S = 0.02, 0.2, 0.2, 1.0
_TELL_S = 1.0  # between two updates of the counts that callers see
_CHUNK = 500
_FINAL = {"": "completed", "batch_cancelled": "cancelled", "batch_expired": "expired"}


class _Job(NamedTuple):
    job_id: str
    custom_id: str | None


class BatchRunner:
    """Holds the batch's results, and with them its lock, until `release`."""

    def __init__(
        self,
        *,
        batch_id: str,
        results: BatchResults,
        queue: JobQueue,
        callers: Callers,
        batches: Batches,
        files: Files,
        ending: OutputFiles,
        config: GatewayConfig,
        share: Callable[[str, str], int],
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.batch_id = batch_id
        self._entries = OutputLines(batch_id)
        self._results = results
        self._queue = queue
        self._callers = callers
        self._batches = batches
        self._files = files
        self._ending = ending
        self._config = config
        self._share = share  # of a key on a plan: how many lines of each of its batches may be in the queue
        self._clock = clock
        self._pause = pause
        self._in_flight: dict[int, _Job] = {}
        self._recovered = False
        self._lines: RemainingLines | None = None
        self._refusals: dict[int, int] = {}  # how often the queue did not take a line
        self._wait_until = self._told = 0.0
        self._waits_for = ""
        self._pause_s = _BUSY_S

    def step(self) -> float | None:
        """Does what can be done now. Returns when to come again, in seconds; None when there is nothing left to do.
        Raises `NotReady` for what may pass, and `OSError` of the disk."""
        batch = self._batches.find(self.batch_id)
        if batch is None or batch.status not in UNFINISHED_STATUSES:
            return self._over()
        if not self._files.path(batch.input_file_id).exists():
            raise NotReady("The content of the batch's input file is not on this disk.")
        if batch.status == "validating":
            return self._begin(batch)
        if batch.in_progress_at is None:  # cancelled before anything was submitted
            ended = self._batches.finish(batch, "cancelled", [], cancelled_at=self._clock())
            return self._over() if ended else 0.0
        if not self._recovered:
            if self._results.created:  # begun on another disk: what has been run is known there
                self._results.remove()
                return None
            self._recover(batch)
        return self._go_on(batch)

    def release(self) -> None:
        self._results.close()

    def _go_on(self, batch: Batch) -> float | None:
        why = self._why_end(batch)
        before = len(self._results), len(self._in_flight)
        self._collect(batch, why)
        if why:
            self._cancel(batch)
            if self._in_flight:
                return _CANCEL_S
            self._give_up(batch, why)
        elif self._clock() >= self._wait_until:
            self._submit(batch)
        if len(self._results) >= batch.total and not self._in_flight:
            return self._finalize(batch, why)
        self._tell(batch)
        moved = before != (len(self._results), len(self._in_flight))
        longest_s = _WATCHING_S if self._in_flight else _IDLE_S
        self._pause_s = _BUSY_S if moved else min(self._pause_s * 2, longest_s)
        return self._pause_s

    def _begin(self, batch: Batch) -> float | None:
        """Looks at the whole file: a line that cannot be used fails, a file without any that can fails the batch."""
        found = check(
            self._files.path(batch.input_file_id),
            batch.endpoint,
            most_lines=self._config.batch.max_lines,
            longest=self._config.server.max_body_bytes,
            pause=self._pause,
        )
        if found.errors:
            return self._fail(batch, found)
        self._results.add([self._entries.bad(line) for line in found.bad])
        self._results.sync()
        failed = self._results.failed
        begun = {"status": "in_progress", "in_progress_at": self._clock(), "total": found.total, "failed": failed}
        if not self._batches.update(self.batch_id, ("validating",), **begun):
            return 0.0  # cancelled just now, or begun on another disk
        self._recovered = True
        log.info("batch_started", batch_id=self.batch_id, lines=found.total, failed=failed)
        return 0.0

    def _fail(self, batch: Batch, found: CheckedFile) -> float | None:
        log.warning("batch_failed", batch_id=self.batch_id, code=found.errors[0]["code"])
        errors = msgspec.json.encode(found.errors).decode()
        return self._over() if self._ending.end(batch, self._results, "failed", errors=errors) else 0.0

    def _over(self) -> float | None:
        """The batch has ended. Results stay if its files do not hold them: it may have been ended by somebody else."""
        if len(self._results) and not self._batches.has_output(self.batch_id):
            log.error("batch_ended_elsewhere", batch_id=self.batch_id, results=len(self._results))
        else:
            self._results.remove()
        return None

    def _recover(self, batch: Batch) -> None:
        """Finds the jobs that another worker, or this one in an earlier life, has submitted.

        Lines are submitted in order, so those whose job has no result yet are among the first without one.
        """
        for chunk in self._rest(batch).chunks(_CHUNK):
            jobs = self._queue.submitted(batch.key_id, [self._entries.key(number) for number, _ in chunk])
            for (number, raw), job_id in zip(chunk, jobs, strict=True):
                if job_id is not None:
                    self._in_flight[number] = _Job(job_id, parse_line(number, raw, batch.endpoint).custom_id)
            if not any(jobs):
                break
        self._recovered = True
        log.info("batch_taken_over", batch_id=self.batch_id, ended=len(self._results), in_flight=len(self._in_flight))

    def _why_end(self, batch: Batch) -> str:
        """Why the rest is not to be run; "" while it is."""
        if batch.status == "cancelling":
            return "batch_cancelled"
        return "batch_expired" if batch.status == "in_progress" and self._clock() >= batch.expires_at else ""

    def _collect(self, batch: Batch, why_cancelled: str) -> None:
        """Keeps the results of jobs that have ended; only then are the jobs dropped."""
        if not self._in_flight:
            return
        ended: list[LineResult] = []
        gone: list[int] = []
        outcomes = self._queue.jobs.outcomes([job.job_id for job in self._in_flight.values()])
        for (number, job), outcome in zip(self._in_flight.items(), outcomes, strict=True):
            if outcome is None:
                gone.append(number)
            elif outcome.state not in ("queued", "processing"):
                why = why_cancelled or "request_cancelled"
                ended.append(self._entries.outcome(number, job.custom_id, outcome, why))
        ended += self._of_gone(batch, gone)
        self._results.add(ended)
        jobs = {self._entries.key(result.line): self._in_flight[result.line].job_id for result in ended}
        self._queue.forget(batch.key_id, jobs)
        for result in ended:
            del self._in_flight[result.line]

    def _of_gone(self, batch: Batch, numbers: list[int]) -> list[LineResult]:
        """Jobs that are not there. If their submission is forgotten too, Redis lost it: they are submitted again."""
        lost = []
        jobs = self._queue.submitted(batch.key_id, [self._entries.key(number) for number in numbers])
        for number, job_id in zip(numbers, jobs, strict=True):
            if job_id is not None:
                lost.append(self._entries.not_run(number, self._in_flight[number].custom_id, "result_lost"))
            else:
                del self._in_flight[number]
                self._rest(batch).start_over()
        return lost

    def _submit(self, batch: Batch) -> None:
        try:
            caller: Caller | GatewayError = self._callers.by_hash(batch.key_hash)
        except StoreUnavailable:
            raise
        except GatewayError as exc:
            caller = exc  # every line that is left gets to hear it
        most = self._share(batch.key_id, caller.plan if isinstance(caller, Caller) else "")
        failed: list[LineResult] = []
        while len(self._in_flight) < most and len(failed) < _CHUNK:
            raw = self._rest(batch).next()
            if raw is None:
                if not self._in_flight:
                    self._rest(batch).start_over()  # whatever is still without a result is found next time
                break
            line = parse_line(*raw, batch.endpoint)
            if isinstance(line, InvalidBatchLine):
                failed.append(self._entries.bad(line))
                continue
            try:
                self._hand_in(caller, line)
            except GatewayError as exc:
                if self._passes(exc, line.number):
                    self._rest(batch).hold_back(raw)
                    break
                failed.append(self._entries.refused(line, exc))
        self._results.add(failed)

    def _hand_in(self, caller: Caller | GatewayError, line: BatchLine) -> None:
        if isinstance(caller, GatewayError):
            raise caller
        number = line.number
        # A call that the queue did not take was settled; to be admitted again it needs another id.
        call_id = self._entries.call_id(number, self._refusals.get(number, 0))
        submitted = self._queue.submit(
            caller,
            line.request,
            CallContext(self._entries.call_id(number), call_id),
            idempotency_key=self._entries.key(number),
            repeatable=True,
            keep_s=COMPLETION_WINDOW_S,
        )
        self._in_flight[number] = _Job(submitted.job_id, line.custom_id)
        self._refusals.pop(number, None)
        self._waits_for = ""

    def _passes(self, exc: GatewayError, number: int) -> bool:
        """Whether a refusal is only for now: the line then waits."""
        if isinstance(exc, NotReady):
            self._refusals[number] = self._refusals.get(number, 0) + 1
        elif not (isinstance(exc, RateLimited) and exc.retryable):
            return False
        self._wait_until = self._clock() + min(exc.retry_after_s or 1.0, MAX_RETRY_AFTER_S)
        if exc.code != self._waits_for:
            self._waits_for = exc.code
            log.info("batch_waits", batch_id=self.batch_id, line=number, reason=exc.message)
        return True

    def _cancel(self, batch: Batch) -> None:
        """Waiting jobs end at once, running ones within a second; those are told again until they have."""
        owner = Caller(batch.key_id, "")
        for job in self._in_flight.values():
            try:
                self._queue.cancel(owner, job.job_id)
            except (Conflict, NotFound):
                pass  # it has ended: it is collected next time

    def _give_up(self, batch: Batch, why: str) -> None:
        for chunk in self._rest(batch).chunks(_CHUNK):
            self._results.add(
                [
                    self._entries.not_run(number, parse_line(number, raw, batch.endpoint).custom_id, why)
                    for number, raw in chunk
                ]
            )

    def _finalize(self, batch: Batch, why: str) -> float | None:
        if batch.status == "in_progress" and not why:
            begun = {"status": "finalizing", "finalizing_at": self._clock()}
            if not self._batches.update(self.batch_id, ("in_progress",), **begun):
                return 0.0  # cancelled just now
            batch = batch._replace(status="finalizing")
        return self._over() if self._ending.end(batch, self._results, _FINAL[why]) else 0.0

    def _tell(self, batch: Batch) -> None:
        counts = (self._results.completed, self._results.failed)
        if counts != (batch.completed, batch.failed) and self._clock() - self._told >= _TELL_S:
            self._told = self._clock()
            self._batches.update(self.batch_id, UNFINISHED_STATUSES, completed=counts[0], failed=counts[1])

    def _rest(self, batch: Batch) -> RemainingLines:
        """The lines that have no result and are not in flight."""
        if self._lines is None:
            self._lines = RemainingLines(
                self._files.path(batch.input_file_id),
                self._config.server.max_body_bytes,
                pause=self._pause,
                done=lambda number: number in self._results or number in self._in_flight,
            )
        return self._lines
