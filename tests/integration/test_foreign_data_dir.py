"""Each process of ours, started with the DATA_DIR of one installation and the database of another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.store.installation import Installation
from app.store.redis.client import Redis
from app.store.sql.database import Database
from tests.support.servers import ADMIN_KEY, DEV_KEY, ROOT, flushed, free_port


@pytest.mark.parametrize("process", ["worker", "gateway", "ledger"])
def test_every_process_refuses_a_foreign_data_dir_with_one_line(redis_url: str, tmp_path: Path, process: str) -> None:
    for name in ("a", "b"):
        flushed(redis_url)
        database, redis = Database(f"sqlite:///{tmp_path / name / 'ledger.db'}"), Redis(redis_url)
        database.migrate()
        Installation(database=database, redis=redis, data_dir=tmp_path / name).check(files=True)
        redis.close()
    (tmp_path / "gateway.yaml").write_text("providers: {d: {kind: demo}}\nmodels: {d: {targets: [{provider: d}]}}\n")
    env = {
        "PATH": "/usr/bin:/bin",
        "DATA_DIR": str(tmp_path / "b"),
        "REDIS_URL": redis_url,
        "PORT": str(free_port()),
        "DATABASE_URL": f"sqlite:///{tmp_path}/a/ledger.db",
        "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
        "DEV_API_KEY": DEV_KEY,
        "ADMIN_KEY": ADMIN_KEY,
        "PYTHONPATH": str(ROOT),
    }
    command = {
        "worker": ["dramatiq-gevent", "app.jobs.worker", "--processes", "1", "--threads", "2"],
        "gateway": ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"],
        "ledger": ["flask", "--app", "app", "ledger", "run"],
    }[process]
    executable = str(Path(sys.executable).parent / command[0])
    ended = subprocess.run([executable, *command[1:]], cwd=ROOT, env=env, timeout=60, capture_output=True, text=True)
    assert ended.returncode != 0
    refusals = [line for line in ended.stderr.splitlines() if "installation adopt" in line]
    assert len(refusals) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert str(tmp_path / "b") in refusals[0]
