"""Lines of one batch that are in the queue: submission under ids that never change, recovery, and collection.

A line is always submitted under the same idempotency key and the same call id, and Redis remembers which line became
which job. So another process can ask what was submitted (`recover`) and go on: no line is lost, run twice or charged
twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from app.domain.batch import COMPLETION_WINDOW_S, BatchLine, parse_line
from app.domain.identity import Caller
from app.errors import Conflict, NotFound, NotReady
from app.gateway.call import CallContext
from app.jobs.batch.input_file import LineIds, NumberedLine
from app.jobs.batch.output_files import OutputLines
from app.jobs.queue import JobQueue
from app.store.batch_results import LineResult
from app.store.batches import Batch


class _SubmittedLine(NamedTuple):
    job_id: str
    custom_id: str | None


class Collected(NamedTuple):
    """`results` of the jobs that have ended; `lost`: Redis has lost lines, which are to be submitted again."""

    results: list[LineResult]
    lost: bool


class LinesInFlight:
    """The submitted lines by number; each stays until its result is kept and `forget` is called."""

    def __init__(self, ids: LineIds, queue: JobQueue) -> None:
        self._ids = ids
        self._queue = queue
        self._submitted: dict[int, _SubmittedLine] = {}
        self._refusals: dict[int, int] = {}  # how often the queue did not take a line

    def __len__(self) -> int:
        return len(self._submitted)

    def __contains__(self, number: int) -> bool:
        return number in self._submitted

    def recover(self, batch: Batch, chunks: Iterable[list[NumberedLine]]) -> None:
        """Finds the jobs that another worker process, or an earlier runner of this one, has submitted.

        Lines are submitted in order, so those whose job has no result yet are among the first without one.
        """
        for chunk in chunks:
            job_ids = self._job_ids(batch, [number for number, _ in chunk])
            for (number, raw), job_id in zip(chunk, job_ids, strict=True):
                if job_id is not None:
                    custom_id = parse_line(number, raw, batch.endpoint).custom_id
                    self._submitted[number] = _SubmittedLine(job_id, custom_id)
            if not any(job_ids):
                break

    def submit(self, caller: Caller, line: BatchLine) -> None:
        """Raises what `JobQueue.submit` raises."""
        number = line.number
        # A call that the queue did not take was settled; to be admitted again it needs another id.
        call_id = self._ids.call_id(number, self._refusals.get(number, 0))
        try:
            submission = self._queue.submit(
                caller,
                line.request,
                CallContext(self._ids.call_id(number), call_id),
                idempotency_key=self._ids.idempotency_key(number),
                repeatable=True,
                keep_s=COMPLETION_WINDOW_S,
            )
        except NotReady:
            self._refusals[number] = self._refusals.get(number, 0) + 1
            raise
        self._submitted[number] = _SubmittedLine(submission.job_id, line.custom_id)
        self._refusals.pop(number, None)

    def collect(self, batch: Batch, lines: OutputLines, cancelled_code: str) -> Collected:
        """Fetches what has ended. A line whose job and submission are both gone is not in flight any more."""
        results: list[LineResult] = []
        gone: list[int] = []
        outcomes = self._queue.jobs.outcomes([line.job_id for line in self._submitted.values()])
        for (number, line), outcome in zip(self._submitted.items(), outcomes, strict=True):
            if outcome is None:
                gone.append(number)
            elif outcome.state not in ("queued", "processing"):
                results.append(lines.outcome(number, line.custom_id, outcome, cancelled_code))
        lost = False
        for number, job_id in zip(gone, self._job_ids(batch, gone), strict=True):
            if job_id is not None:
                results.append(lines.not_run(number, self._submitted[number].custom_id, "result_lost"))
            else:
                del self._submitted[number]
                lost = True
        return Collected(results, lost)

    def forget(self, batch: Batch, results: Iterable[LineResult]) -> None:
        """Drops the jobs of results that are kept, here and in the queue."""
        numbers = [result.line for result in results]
        jobs = {self._ids.idempotency_key(number): self._submitted[number].job_id for number in numbers}
        self._queue.forget(batch.key_id, jobs)
        for number in numbers:
            del self._submitted[number]

    def cancel(self, batch: Batch) -> None:
        """Cancels all jobs: waiting ones end at once, running ones within a second. To be repeated until they have."""
        owner = Caller(batch.key_id, "")
        for line in self._submitted.values():
            try:
                self._queue.cancel(owner, line.job_id)
            except (Conflict, NotFound):
                pass  # it has ended: it is collected next time

    def _job_ids(self, batch: Batch, numbers: list[int]) -> list[str | None]:
        keys = [self._ids.idempotency_key(number) for number in numbers]
        return self._queue.submitted(batch.key_id, keys)
