"""The services that every batch runner of a worker process shares."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.config.gateway import GatewayConfig
from app.gateway.callers import Callers
from app.jobs.queue import JobQueue
from app.store.batches import Batches
from app.store.files import Files


@dataclass(frozen=True, slots=True)
class BatchServices:
    """`clock` is in Unix seconds; `pause` gives other greenlets their turn; `sync` writes a file descriptor to disk."""

    queue: JobQueue
    callers: Callers
    batches: Batches
    files: Files
    config: GatewayConfig
    clock: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    sync: Callable[[int], None] = os.fsync
