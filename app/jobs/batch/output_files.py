"""How a batch ends: its output and error file are written, and come into being with its final status."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from app.store.batch_results import BatchResults
from app.store.batches import Batch, Batches
from app.store.files import Files, StoredFile

log = structlog.get_logger()
_PAUSE_EVERY = 500  # lines


class OutputFiles:
    def __init__(
        self,
        *,
        batches: Batches,
        files: Files,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
        sync: Callable[[int], None],
    ) -> None:
        self._batches = batches
        self._files = files
        self._clock = clock
        self._pause = pause
        self._sync = sync
        self._unsure: dict[str, list[StoredFile]] = {}  # by batch: files that the database may have a row of

    def end(self, batch: Batch, results: BatchResults, status: str, **values: Any) -> bool:
        """Ends `batch`, as it was just read, with `status`. False if it changed meanwhile; nothing has happened then.

        Raises `NotReady`; it can then be called again. A crash leaves files without a row, which are swept some day.
        """
        self._remove(self._unsure.pop(batch.batch_id, []))  # it has not ended: the database has not taken them
        made: list[StoredFile] = []
        try:
            for ok, column in ((True, "output_file_id"), (False, "error_file_id")):
                if results.completed if ok else results.failed:
                    made.append(self._write(batch, results, ok=ok))
                    values[column] = made[-1].file_id
        except BaseException:
            self._remove(made)
            raise
        counts = {"completed": results.completed, "failed": results.failed}
        values |= {f"{status}_at": self._clock(), **counts}
        # A database that does not answer may have taken them all the same: they stay until that is known.
        self._unsure[batch.batch_id] = made
        done = self._batches.finish(batch, status, made, **values)
        del self._unsure[batch.batch_id]
        if done:
            log.info("batch_ended", batch_id=batch.batch_id, status=status, **counts)
        else:
            self._remove(made)
        return done

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
