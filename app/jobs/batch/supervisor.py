"""Which batches this worker process feeds: those that no other one has. Beside it, what has expired is removed.

A batch's results file is locked by the process that feeds it (`store.batch_results`): one whose worker was killed
is taken over with the next look, and the workers must share DATA_DIR/files and DATA_DIR/batches. A batch whose files
are not on this disk is left alone: they may be on another one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from app.config.gateway import GatewayConfig
from app.errors import ConfigError, NotReady
from app.gateway.callers import Callers
from app.jobs.batch.output_files import OutputFiles
from app.jobs.batch.runner import BatchRunner
from app.jobs.queue import JobQueue
from app.store.batch_results import BatchResults, remove_leftovers
from app.store.batches import Batch, Batches
from app.store.files import Files

log = structlog.get_logger()
_LOOK_S = 0.5
_SWEEP_S = 3600.0
_MOST_AT_ONCE = 200  # the others wait, or another worker takes them
_WAIT_S, _TROUBLE_S = 1.0, 5.0  # Redis or the database is away; the disk is full, or a bug
_STOP_S = 5.0
_SAY_EACH_S = 60.0  # that a batch's files are missing


class BatchSupervisor:
    def __init__(
        self,
        *,
        queue: JobQueue,
        callers: Callers,
        batches: Batches,
        files: Files,
        config: GatewayConfig,
        directory: Path,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
        sync: Callable[[int], None] = os.fsync,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises `ConfigError` when the disk is not that of the database's batches: nothing is done then."""
        self._queue = queue
        self._callers = callers
        self._batches = batches
        self._files = files
        self._config = config
        self._directory = directory
        self._clock = clock
        self._pause = pause
        self._sync = sync
        self._check = check
        self._checked = False
        self._missing: dict[str, float] = {}  # batches, and when it was said that their files are missing
        self._ending = OutputFiles(batches=batches, files=files, clock=clock, pause=pause, sync=sync)
        self._feeding: dict[str, threading.Thread | None] = {}
        self._unfinished: Counter[str] = Counter()  # batches by key
        self._swept: float | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.is_set():
            try:
                if not self._checked:
                    self._check()
                    self._checked = True
                for feed in self.look():
                    thread = threading.Thread(target=self._keep_feeding, args=(feed,), name="feed", daemon=True)
                    self._feeding[feed.batch_id] = thread
                    thread.start()
                self.sweep()
            except ConfigError as exc:
                log.error("batches_refused", reason=exc.message)
                return
            except NotReady as exc:
                log.warning("batches_unavailable", reason=exc.message)
                self._stopping.wait(_TROUBLE_S)
            except Exception as exc:  # boundary: whatever it was, batches go on
                log.error("unexpected_error", exc_info=exc)
            self._stopping.wait(_LOOK_S)
        for running in [thread for thread in self._feeding.values() if thread is not None]:
            running.join(_STOP_S)

    def stop(self) -> None:
        """Jobs that are in the queue go on; whoever looks next goes on with the batches."""
        self._stopping.set()

    def look(self) -> list[BatchRunner]:
        """The batches that are to be fed from now on, by this process."""
        found = []
        unfinished = self._batches.list_unfinished()
        self._unfinished = Counter(batch.key_id for batch in unfinished)
        self._missing = {
            batch.batch_id: self._missing[batch.batch_id] for batch in unfinished if batch.batch_id in self._missing
        }
        for batch in unfinished:
            if len(self._feeding) >= _MOST_AT_ONCE:
                break
            if batch.batch_id in self._feeding or not self._is_here(batch):
                continue
            results = self._claim(batch)
            if results is None:
                continue
            self._feeding[batch.batch_id] = None
            found.append(
                BatchRunner(
                    batch_id=batch.batch_id,
                    results=results,
                    queue=self._queue,
                    callers=self._callers,
                    batches=self._batches,
                    files=self._files,
                    ending=self._ending,
                    config=self._config,
                    share=self.share,
                    clock=self._clock,
                    pause=self._pause,
                )
            )
        return found

    def _claim(self, batch: Batch) -> BatchResults | None:
        try:
            return BatchResults.claim(
                self._directory,
                batch.batch_id,
                begun=batch.in_progress_at is not None,
                sync=self._sync,
                pause=self._pause,
            )
        except FileNotFoundError:
            # On another disk, or lost: to run it again would charge it again, and to fail it is for a human to decide.
            self._say_missing(batch, "results")
            return None

    def _is_here(self, batch: Batch) -> bool:
        here = self._files.path(batch.input_file_id).exists()
        if not here:
            self._say_missing(batch, "input file")
        return here

    def _say_missing(self, batch: Batch, what: str) -> None:
        now = self._clock()
        if now - self._missing.get(batch.batch_id, -_SAY_EACH_S) >= _SAY_EACH_S:
            self._missing[batch.batch_id] = now
            log.error("batch_files_missing", batch_id=batch.batch_id, missing=what, directory=str(self._directory))

    def share(self, key_id: str, plan_name: str) -> int:
        """How many lines each batch of this key may have in the queue.

        The window; but all batches together fill half of the queue, each key's alike, so that one that comes later need
        not wait for those that came first. Nor may more come in than the plan would let wait there.
        """
        half, keys = self._queue.capacity // 2, len(self._unfinished)
        share = half // max(keys, 1) // max(self._unfinished[key_id], 1)
        plan = self._config.plan_of(plan_name)
        at_once = 2 * plan.concurrency if plan is not None and plan.concurrency else share
        return max(min(self._config.batch.window, share, at_once), 1)

    def release(self, feed: BatchRunner) -> None:
        """This process feeds it no more."""
        feed.release()
        del self._feeding[feed.batch_id]

    def sweep(self) -> None:
        """Every hour: files and batches that have expired go."""
        now = self._clock()
        if self._swept is not None and now - self._swept < _SWEEP_S:
            return
        self._swept = now
        removed = self._files.sweep()
        self._batches.delete_old()
        kept = remove_leftovers(self._directory, self._batches.has_output)
        if kept:
            log.warning("batch_results_kept", count=kept, directory=str(self._directory))
        if removed:
            log.info("files_removed", count=removed)

    def _keep_feeding(self, feed: BatchRunner) -> None:
        try:
            while not self._stopping.is_set():
                wait_s = self._step(feed)
                if wait_s is None:
                    return
                self._stopping.wait(wait_s)
        finally:
            self.release(feed)

    def _step(self, feed: BatchRunner) -> float | None:
        try:
            return feed.step()
        except NotReady as exc:
            log.warning("batch_waits", batch_id=feed.batch_id, reason=exc.message)
            return _WAIT_S
        except OSError as exc:
            log.error("batch_waits", batch_id=feed.batch_id, reason=exc.strerror)
            return _TROUBLE_S
        except Exception as exc:  # boundary: a bug in one batch leaves the others alone
            log.error("unexpected_error", batch_id=feed.batch_id, exc_info=exc)
            self._stopping.wait(_TROUBLE_S)
            return None  # begun anew, from what is safe
