"""How the lines of one batch are named, and what each came to as a line of its output or error file."""

from __future__ import annotations

from app.domain.batch import BatchLine, InvalidBatchLine, error_line, response_line, unprocessed_line
from app.errors import GatewayError
from app.store.batch_results import LineResult
from app.store.job_records import JobOutcome

_WHY = {
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "batch_expired": "This request could not be executed before the completion window expired.",
    "request_cancelled": "This request was cancelled.",
    "result_lost": "This request was executed, but its result was not collected in time.",
}


class OutputLines:
    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id

    def call_id(self, number: int, refusals: int = 0) -> str:
        """The call's id; the ledger has it. Another one after each time that the queue did not take the call."""
        return f"{self._batch_id}-{number}-{refusals}" if refusals else f"{self._batch_id}-{number}"

    def key(self, number: int) -> str:
        """The idempotency key. A header's cannot have a space, so no caller can use it."""
        return f"batch {self._batch_id} {number}"

    def bad(self, line: InvalidBatchLine) -> LineResult:
        if line.error is not None:
            return self.refused(line, line.error)
        entry = unprocessed_line(
            self._id(line.number), line.custom_id, line.number, line.code, line.message, line.param
        )
        return LineResult(line.number, False, entry)

    def refused(self, line: BatchLine | InvalidBatchLine, exc: GatewayError) -> LineResult:
        """What the endpoint would have said."""
        entry = error_line(self._id(line.number), line.custom_id, self.call_id(line.number), exc)
        return LineResult(line.number, False, entry)

    def not_run(self, number: int, custom_id: str | None, code: str) -> LineResult:
        return LineResult(number, False, unprocessed_line(self._id(number), custom_id, number, code, _WHY[code]))

    def outcome(self, number: int, custom_id: str | None, outcome: JobOutcome, why_cancelled: str) -> LineResult:
        """Of a job that has ended."""
        if outcome.state == "cancelled":
            return self.not_run(number, custom_id, why_cancelled)
        ok = outcome.state == "completed"
        body = outcome.response or b"null" if ok else b'{"error":%b}' % (outcome.error or b"null")
        status = outcome.http_status or (200 if ok else 500)
        return LineResult(number, ok, response_line(self._id(number), custom_id, self.call_id(number), status, body))

    def _id(self, number: int) -> str:
        return f"batch_req_{self._batch_id.removeprefix('batch_')}_{number}"
