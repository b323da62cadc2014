"""Output and error file of a batch: their lines, and the step that publishes both with the batch's final status."""

from __future__ import annotations

from typing import Any

import structlog

from app.domain.batch import BatchLine, InvalidBatchLine, error_line, response_line, unprocessed_line
from app.errors import GatewayError
from app.jobs.batch.input_file import LineIds
from app.jobs.batch.services import BatchServices
from app.store.batch_results import BatchResults, LineResult
from app.store.batches import Batch
from app.store.files import StoredFile
from app.store.job_records import JobOutcome

log = structlog.get_logger()
_PAUSE_EVERY = 500  # lines
_NOT_RUN_MESSAGES = {
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "batch_expired": "This request could not be executed before the completion window expired.",
    "request_cancelled": "This request was cancelled.",
    "result_lost": "This request was executed, but its result was not collected in time.",
}


class OutputLines:
    """Makes the results of one batch's lines, each as a line of its output or error file."""

    def __init__(self, ids: LineIds) -> None:
        self._ids = ids

    def bad(self, line: InvalidBatchLine) -> LineResult:
        """Of a line that is no request."""
        if line.error is not None:
            return self.refused(line, line.error)
        result_id = self._ids.result_id(line.number)
        entry = unprocessed_line(result_id, line.custom_id, line.number, line.code, line.message, line.param)
        return LineResult(line.number, False, entry)

    def refused(self, line: BatchLine | InvalidBatchLine, exc: GatewayError) -> LineResult:
        """Of a line that the endpoint would have answered with `exc`."""
        number = line.number
        entry = error_line(self._ids.result_id(number), line.custom_id, self._ids.call_id(number), exc)
        return LineResult(number, False, entry)

    def not_run(self, number: int, custom_id: str | None, code: str) -> LineResult:
        """Of a line without an answer."""
        entry = unprocessed_line(self._ids.result_id(number), custom_id, number, code, _NOT_RUN_MESSAGES[code])
        return LineResult(number, False, entry)

    def outcome(self, number: int, custom_id: str | None, outcome: JobOutcome, cancelled_code: str) -> LineResult:
        """Of a job that has ended; `cancelled_code` is the error of one that was cancelled."""
        if outcome.state == "cancelled":
            return self.not_run(number, custom_id, cancelled_code)
        ok = outcome.state == "completed"
        body = outcome.response or b"null" if ok else b'{"error":%b}' % (outcome.error or b"null")
        status = outcome.http_status or (200 if ok else 500)
        entry = response_line(self._ids.result_id(number), custom_id, self._ids.call_id(number), status, body)
        return LineResult(number, ok, entry)


class OutputFiles:
    """Publishes the results of batches."""

    def __init__(self, services: BatchServices) -> None:
        self._batches = services.batches
        self._files = services.files
        self._clock = services.clock
        self._pause = services.pause
        self._sync = services.sync
        # By batch: files that the database may have a row of, as it did not answer.
        self._unconfirmed: dict[str, list[StoredFile]] = {}

    def publish(self, batch: Batch, results: BatchResults, status: str, **values: Any) -> bool:
        """Ends `batch`, as it was just read, with `status`. False if it changed meanwhile; nothing has happened then.

        Raises `NotReady`; it can then be called again. A crash leaves files without a row, which are swept some day.
        """
        self._remove(self._unconfirmed.pop(batch.batch_id, []))  # it has not ended: the database has not taken them
        written: list[StoredFile] = []
        try:
            for ok, column in ((True, "output_file_id"), (False, "error_file_id")):
                if results.completed if ok else results.failed:
                    written.append(self._write(batch, results, ok=ok))
                    values[column] = written[-1].file_id
        except BaseException:
            self._remove(written)
            raise
        counts = {"completed": results.completed, "failed": results.failed}
        values |= {f"{status}_at": self._clock(), **counts}
        # A database that does not answer may have taken them all the same: they stay until that is known.
        self._unconfirmed[batch.batch_id] = written
        ended = self._batches.finish(batch, status, written, **values)
        del self._unconfirmed[batch.batch_id]
        if ended:
            log.info("batch_ended", batch_id=batch.batch_id, status=status, **counts)
        else:
            self._remove(written)
        return ended

    def _remove(self, files: list[StoredFile]) -> None:
        for file in files:
            self._files.path(file.file_id).unlink(missing_ok=True)

    def _write(self, batch: Batch, results: BatchResults, *, ok: bool) -> StoredFile:
        upload = self._files.begin_output(batch.batch_id)
        try:
            for count, entry in enumerate(results.entries(ok=ok), 1):
                upload.write(entry)
                if count % _PAUSE_EVERY == 0:
                    self._pause(0)
            return self._files.place(
                upload,
                batch.key_id,
                purpose="batch_output",
                ttl_s=batch.output_ttl_s,
                sync=self._sync,
                filename=f"{batch.batch_id}_{'output' if ok else 'error'}.jsonl",
            )
        except BaseException:
            upload.discard()
            raise
