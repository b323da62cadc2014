"""A full disk costs figures, never a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.integration.test_metrics import CONFIG, scrape
from tests.support.client import chat, post
from tests.support.disk import fill, on_a_small_disk
from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

# Two workers' files, and less than those of a third.
_ROOM_KB = 640


def on_a_disk_with_little_room(data_dir: Path) -> list[str]:
    return on_a_small_disk(data_dir / "prometheus", _ROOM_KB)


def test_a_full_disk_kills_no_worker_and_figures_recover_with_room(
    gateway: Callable[..., Gateway], upstream: Upstream
) -> None:
    config = CONFIG.format(url=upstream.url) + f"plans: {{{', '.join(f'plan-{n}: {{}}' for n in range(100))}}}\n"
    server = gateway(config, prefix=on_a_disk_with_little_room)
    directory = Path(server.env["DATA_DIR"]) / "prometheus"
    filler = fill(server.master_pid, directory)
    survivor, victim = sorted(server.worker_pids())
    os.kill(victim, signal.SIGKILL)  # the next one starts on a disk that is full already
    wait_for(lambda: victim not in server.worker_pids() and len(server.worker_pids()) == 2)
    replacement = next(pid for pid in server.worker_pids() if pid != survivor)

    call = partial(post, server.port, chat("usage-10-5"), DEV_KEY)
    assert {call().status for _ in range(40)} == {200}
    wait_for(lambda: "metrics_incomplete" in server.log())
    assert scrape(server), "what has its room is still shown"
    assert {call().status for _ in range(40)} == {200}
    assert set(server.worker_pids()) == {survivor, replacement}
    assert "SIGBUS" not in server.log()
    told = [line.split("file=")[1].split()[0] for line in server.log().splitlines() if "metrics_incomplete" in line]
    assert len(told) == len(set(told)), "once a file"

    filler.unlink()
    labels = "model=usage-10-5,provider=up,status=ok"

    def all_are_counted() -> bool:
        call()
        counted = scrape(server).get("llm_requests_total", {}).get(labels, 0)
        return counted >= 80

    wait_for(all_are_counted, message="what was counted meanwhile is not in the sums")
