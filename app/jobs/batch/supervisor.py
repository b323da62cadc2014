"""Supervisor of batches: claims those that no other worker process runs, drives each in a thread, and removes expired
files and batches.

A batch's results file is locked by the process that runs it (`store.batch_results`): one whose process was killed is
taken over with the next look, and the worker processes must share DATA_DIR/files and DATA_DIR/batches. A batch whose
files are not on this disk is left alone: they may be on another one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from app.errors import ConfigError, NotReady
from app.jobs.batch.output_files import OutputFiles
from app.jobs.batch.runner import BatchRunner, Step
from app.jobs.batch.services import BatchServices
from app.store.batch_results import BatchResults, remove_leftovers
from app.store.batches import Batch

log = structlog.get_logger()
_CLAIM_EVERY_S = 0.5
_EXPIRE_EVERY_S = 3600.0
_MOST_AT_ONCE = 200  # the others wait, or another worker process takes them
_UNAVAILABLE_S, _TROUBLE_S = 1.0, 5.0  # Redis or the database is away; the disk is full, or a bug
_STOP_S = 5.0
_MISSING_LOG_EVERY_S = 60.0


class BatchSupervisor:
    """One in each worker process. `results_dir` is where the results of unfinished batches are."""

    def __init__(self, services: BatchServices, *, results_dir: Path, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises `ConfigError` when the disk is not that of the database's batches: nothing is done then."""
        self._services = services
        self._results_dir = results_dir
        self._check = check
        self._checked = False
        self._output_files = OutputFiles(services)
        self._threads: dict[str, threading.Thread | None] = {}  # of the batches that this process runs
        self._unfinished: Counter[str] = Counter()  # batches by key
        self._missing: dict[str, float] = {}  # batches, and when it was last logged that their files are missing
        self._expired_removed_at: float | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Runs batches until `stop`."""
        while not self._stopping.is_set():
            try:
                if not self._checked:
                    self._check()
                    self._checked = True
                for runner in self.claim():
                    thread = threading.Thread(target=self._drive, args=(runner,), name="batch", daemon=True)
                    self._threads[runner.batch_id] = thread
                    thread.start()
                self.remove_expired()
            except ConfigError as exc:
                log.error("batches_refused", reason=exc.message)
                return
            except NotReady as exc:
                log.warning("batches_unavailable", reason=exc.message)
                self._stopping.wait(_TROUBLE_S)
            except Exception as exc:  # boundary: whatever it was, batches go on
                log.error("unexpected_error", exc_info=exc)
            self._stopping.wait(_CLAIM_EVERY_S)
        for running in [thread for thread in self._threads.values() if thread is not None]:
            running.join(_STOP_S)

    def stop(self) -> None:
        """Ends `run`. Jobs that are in the queue go on; the next process that claims the batches goes on with them."""
        self._stopping.set()

    def claim(self) -> list[BatchRunner]:
        """Returns runners of the batches that this process runs from now on."""
        runners = []
        unfinished = self._services.batches.list_unfinished()
        self._unfinished = Counter(batch.key_id for batch in unfinished)
        self._missing = {
            batch.batch_id: self._missing[batch.batch_id] for batch in unfinished if batch.batch_id in self._missing
        }
        for batch in unfinished:
            if len(self._threads) >= _MOST_AT_ONCE:
                break
            if batch.batch_id in self._threads or not self._has_input_file(batch):
                continue
            results = self._claim_results(batch)
            if results is None:
                continue
            self._threads[batch.batch_id] = None
            runners.append(BatchRunner(batch, results, self._services, self._output_files))
        return runners

    def release(self, runner: BatchRunner) -> None:
        """Leaves a batch to the next process that claims it."""
        runner.release()
        del self._threads[runner.batch_id]

    def queue_share(self, key_id: str) -> int:
        """Returns how many lines each batch of this key may have in the queue.

        The window; but all batches together fill half of the queue, each key's alike, so that one that comes later need
        not wait for those that came first.
        """
        half, keys = self._services.queue.capacity // 2, len(self._unfinished)
        share = half // max(keys, 1) // max(self._unfinished[key_id], 1)
        return max(min(self._services.config.batch.window, share), 1)

    def remove_expired(self) -> None:
        """Removes expired files and batches, every hour."""
        now = self._services.clock()
        if self._expired_removed_at is not None and now - self._expired_removed_at < _EXPIRE_EVERY_S:
            return
        self._expired_removed_at = now
        removed = self._services.files.sweep()
        self._services.batches.delete_old()
        kept = remove_leftovers(self._results_dir, self._services.batches.has_output)
        if kept:
            log.warning("batch_results_kept", count=kept, directory=str(self._results_dir))
        if removed:
            log.info("files_removed", count=removed)

    def _claim_results(self, batch: Batch) -> BatchResults | None:
        try:
            return BatchResults.claim(
                self._results_dir,
                batch.batch_id,
                begun=batch.in_progress_at is not None,
                sync=self._services.sync,
                pause=self._services.pause,
            )
        except FileNotFoundError:
            # On another disk, or lost: to run it again would charge it again, and to fail it is for a human to decide.
            self._log_missing(batch, "results")
            return None

    def _has_input_file(self, batch: Batch) -> bool:
        exists = self._services.files.path(batch.input_file_id).exists()
        if not exists:
            self._log_missing(batch, "input file")
        return exists

    def _log_missing(self, batch: Batch, what: str) -> None:
        now = self._services.clock()
        if now - self._missing.get(batch.batch_id, -_MISSING_LOG_EVERY_S) >= _MISSING_LOG_EVERY_S:
            self._missing[batch.batch_id] = now
            log.error("batch_files_missing", batch_id=batch.batch_id, missing=what, directory=str(self._results_dir))

    def _drive(self, runner: BatchRunner) -> None:
        try:
            while not self._stopping.is_set():
                step = self._step(runner)
                if step.done:
                    return
                self._stopping.wait(step.wait_s)
        finally:
            self.release(runner)

    def _step(self, runner: BatchRunner) -> Step:
        try:
            return runner.step(self.queue_share(runner.key_id))
        except NotReady as exc:
            log.warning("batch_waits", batch_id=runner.batch_id, reason=exc.message)
            return Step(_UNAVAILABLE_S)
        except OSError as exc:
            log.error("batch_waits", batch_id=runner.batch_id, reason=exc.strerror)
            return Step(_TROUBLE_S)
        except Exception as exc:  # boundary: a bug in one batch leaves the others alone
            log.error("unexpected_error", batch_id=runner.batch_id, exc_info=exc)
            self._stopping.wait(_TROUBLE_S)
            return Step(done=True)  # begun anew, from what is safe
