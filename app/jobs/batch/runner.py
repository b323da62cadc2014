"""Batch runner: moves one batch forward, step by step, from its input file through the queue to its output files.

Its state is a copy of what is stored elsewhere: the results on disk, and in Redis the job that each line was submitted
as (`in_flight`). So another worker process can go on at any point.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import structlog

from app.domain.batch import UNFINISHED_STATUSES, InvalidBatchLine, parse_line
from app.domain.identity import Caller
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import GatewayError, NotReady, RateLimited, StoreUnavailable
from app.jobs.batch.in_flight import LinesInFlight
from app.jobs.batch.input_file import FileCheck, LineIds, RemainingLines, check_file
from app.jobs.batch.output_files import OutputFiles, OutputLines
from app.jobs.batch.services import BatchServices
from app.store.batch_results import BatchResults, LineResult
from app.store.batches import Batch

log = structlog.get_logger()
# Between two steps: doubled while nothing happens, up to the one, or the other when nothing is in flight.
_BUSY_S, _WATCHING_S, _CANCEL_S, _IDLE_S = 0.02, 0.2, 0.2, 1.0
_COUNTS_EVERY_S = 1.0  # between two updates of the counts that callers see
_CHUNK = 500
_FINAL_STATUS = {"": "completed", "batch_cancelled": "cancelled", "batch_expired": "expired"}


class Step(NamedTuple):
    """The outcome of a step. `wait_s`: seconds until the next one; `done`: this process has nothing left to do."""

    wait_s: float = 0.0
    done: bool = False


_AGAIN, _DONE = Step(), Step(done=True)


class BatchRunner:
    """Holds the batch's results, and with them its lock, until `release`."""

    def __init__(self, batch: Batch, results: BatchResults, services: BatchServices, output_files: OutputFiles) -> None:
        self.batch_id = batch.batch_id
        self.key_id = batch.key_id
        self._results = results
        self._services = services
        self._batches = services.batches
        self._output_files = output_files
        ids = LineIds(batch.batch_id)
        self._lines = OutputLines(ids)
        self._in_flight = LinesInFlight(ids, services.queue)
        self._recovered = False
        self._unread: RemainingLines | None = None
        self._wait_until = self._counts_written_at = 0.0
        self._waits_for = ""  # the code of the last temporary refusal
        self._pause_s = _BUSY_S

    def step(self, queue_share: int) -> Step:
        """Moves the batch on as far as it goes now; at most `queue_share` of its lines may be in the queue after that.

        Raises `NotReady` for a temporary failure, and `OSError` of the disk.
        """
        batch = self._batches.find(self.batch_id)
        if batch is None or batch.status not in UNFINISHED_STATUSES:
            return self._close_ended()
        if not self._services.files.path(batch.input_file_id).exists():
            raise NotReady("The content of the batch's input file is not on this disk.")
        if batch.status == "validating":
            return self._begin(batch)
        if batch.in_progress_at is None:  # cancelled before anything was submitted
            ended = self._batches.finish(batch, "cancelled", [], cancelled_at=self._services.clock())
            return self._close_ended() if ended else _AGAIN
        if not self._recovered:
            if self._results.created:  # begun on another disk: the results are there
                self._results.remove()
                return _DONE
            self._recover(batch)
        return self._advance(batch, queue_share)

    def release(self) -> None:
        """Lets the results go, for the next process that claims the batch."""
        self._results.close()

    def _advance(self, batch: Batch, queue_share: int) -> Step:
        stop_reason = self._stop_reason(batch)
        before = len(self._results), len(self._in_flight)
        self._collect(batch, stop_reason)
        if stop_reason:
            self._in_flight.cancel(batch)
            if self._in_flight:
                return Step(_CANCEL_S)
            self._abandon_unread(batch, stop_reason)
        elif self._services.clock() >= self._wait_until:
            self._submit(batch, queue_share)
        if len(self._results) >= batch.total and not self._in_flight:
            return self._finalize(batch, stop_reason)
        self._write_counts(batch)
        moved = before != (len(self._results), len(self._in_flight))
        longest_s = _WATCHING_S if self._in_flight else _IDLE_S
        self._pause_s = _BUSY_S if moved else min(self._pause_s * 2, longest_s)
        return Step(self._pause_s)

    def _begin(self, batch: Batch) -> Step:
        """Checks the whole file: a line that cannot be used fails, a file without any that can fails the batch."""
        check = check_file(
            self._services.files.path(batch.input_file_id),
            batch.endpoint,
            max_lines=self._services.config.batch.max_lines,
            max_body_bytes=self._services.config.server.max_body_bytes,
            pause=self._services.pause,
        )
        if check.errors:
            return self._fail(batch, check)
        self._results.add([self._lines.bad(line) for line in check.bad_lines])
        self._results.sync()
        failed, now = self._results.failed, self._services.clock()
        changes = {"status": "in_progress", "in_progress_at": now, "total": check.total, "failed": failed}
        if not self._batches.update(self.batch_id, ("validating",), **changes):
            return _AGAIN  # cancelled just now, or begun on another disk
        self._recovered = True
        log.info("batch_started", batch_id=self.batch_id, lines=check.total, failed=failed)
        return _AGAIN

    def _fail(self, batch: Batch, check: FileCheck) -> Step:
        log.warning("batch_failed", batch_id=self.batch_id, code=check.errors[0]["code"])
        errors = msgspec.json.encode(check.errors).decode()
        ended = self._output_files.publish(batch, self._results, "failed", errors=errors)
        return self._close_ended() if ended else _AGAIN

    def _finalize(self, batch: Batch, stop_reason: str) -> Step:
        if batch.status == "in_progress" and not stop_reason:
            changes = {"status": "finalizing", "finalizing_at": self._services.clock()}
            if not self._batches.update(self.batch_id, ("in_progress",), **changes):
                return _AGAIN  # cancelled just now
            batch = batch._replace(status="finalizing")
        ended = self._output_files.publish(batch, self._results, _FINAL_STATUS[stop_reason])
        return self._close_ended() if ended else _AGAIN

    def _close_ended(self) -> Step:
        """Removes the results of a batch that has ended, unless its files do not hold them: it may have been ended by
        an operator, and they are paid for."""
        if len(self._results) and not self._batches.has_output(self.batch_id):
            log.error("batch_ended_elsewhere", batch_id=self.batch_id, results=len(self._results))
        else:
            self._results.remove()
        return _DONE

    def _recover(self, batch: Batch) -> None:
        self._in_flight.recover(batch, self._unread_lines(batch).chunks(_CHUNK))
        self._recovered = True
        log.info("batch_taken_over", batch_id=self.batch_id, ended=len(self._results), in_flight=len(self._in_flight))

    def _stop_reason(self, batch: Batch) -> str:
        """The code with which the lines that are left fail; "" while they are to be run."""
        if batch.status == "cancelling":
            return "batch_cancelled"
        expired = batch.status == "in_progress" and self._services.clock() >= batch.expires_at
        return "batch_expired" if expired else ""

    def _collect(self, batch: Batch, stop_reason: str) -> None:
        """Keeps the results of jobs that have ended; only then are the jobs dropped."""
        if not self._in_flight:
            return
        collected = self._in_flight.collect(batch, self._lines, stop_reason or "request_cancelled")
        if collected.lost:
            self._unread_lines(batch).restart()
        self._results.add(collected.results)
        self._in_flight.forget(batch, collected.results)

    def _submit(self, batch: Batch, queue_share: int) -> None:
        caller = self._caller(batch)
        most = queue_share if isinstance(caller, GatewayError) else self._most_in_flight(caller, queue_share)
        failed: list[LineResult] = []
        while len(self._in_flight) < most and len(failed) < _CHUNK:
            raw = self._unread_lines(batch).next()
            if raw is None:
                if not self._in_flight:
                    self._unread_lines(batch).restart()  # lines that are still without a result are found next time
                break
            line = parse_line(*raw, batch.endpoint)
            if isinstance(line, InvalidBatchLine):
                failed.append(self._lines.bad(line))
                continue
            try:
                if isinstance(caller, GatewayError):
                    raise caller
                self._in_flight.submit(caller, line)
                self._waits_for = ""
            except GatewayError as exc:
                if _is_temporary(exc):
                    self._unread_lines(batch).push_back(raw)
                    self._wait(line.number, exc)
                    break
                failed.append(self._lines.refused(line, exc))
        self._results.add(failed)

    def _caller(self, batch: Batch) -> Caller | GatewayError:
        """The batch's owner; or the error that each line which is left is answered with."""
        try:
            return self._services.callers.by_hash(batch.key_hash)
        except StoreUnavailable:
            raise
        except GatewayError as exc:
            return exc

    def _most_in_flight(self, caller: Caller, queue_share: int) -> int:
        """`queue_share`, but not more than the caller's plan would let wait there."""
        plan = self._services.config.plan_of(caller.plan)  # of an unknown one every line is refused
        return min(queue_share, 2 * plan.concurrency) if plan is not None and plan.concurrency else queue_share

    def _wait(self, number: int, exc: GatewayError) -> None:
        """Submits nothing for as long as a temporary refusal says."""
        self._wait_until = self._services.clock() + min(exc.retry_after_s or 1.0, MAX_RETRY_AFTER_S)
        if exc.code != self._waits_for:
            self._waits_for = exc.code
            log.info("batch_waits", batch_id=self.batch_id, line=number, reason=exc.message)

    def _abandon_unread(self, batch: Batch, stop_reason: str) -> None:
        for chunk in self._unread_lines(batch).chunks(_CHUNK):
            lines = [parse_line(number, raw, batch.endpoint) for number, raw in chunk]
            self._results.add([self._lines.not_run(line.number, line.custom_id, stop_reason) for line in lines])

    def _write_counts(self, batch: Batch) -> None:
        counts = (self._results.completed, self._results.failed)
        now = self._services.clock()
        if counts != (batch.completed, batch.failed) and now - self._counts_written_at >= _COUNTS_EVERY_S:
            self._counts_written_at = now
            self._batches.update(self.batch_id, UNFINISHED_STATUSES, completed=counts[0], failed=counts[1])

    def _unread_lines(self, batch: Batch) -> RemainingLines:
        """The lines that have no result and are not in flight."""
        if self._unread is None:
            self._unread = RemainingLines(
                self._services.files.path(batch.input_file_id),
                self._services.config.server.max_body_bytes,
                pause=self._services.pause,
                done=lambda number: number in self._results or number in self._in_flight,
            )
        return self._unread


def _is_temporary(exc: GatewayError) -> bool:
    return isinstance(exc, NotReady) or (isinstance(exc, RateLimited) and exc.retryable)
