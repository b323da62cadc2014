"""`make run` ends as a whole, however it is ended: no process stays, and every call that was answered has its row."""

from __future__ import annotations

import http.client
import signal
from pathlib import Path

import pytest

from tests.support.servers import wait_for
from tests.support.terminal import MAKE, MakeRun

pytestmark = pytest.mark.timeout(180)


def test_ctrl_c_ends_an_idle_one_at_once_and_without_complaint(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        run.ctrl_c()
        run.gone(15)
        shown = run.shown().partition("Stopping.")[2]
        for complaint in ("kill", "traceback", "exit code", "worker exited"):
            assert complaint not in shown.lower(), shown
        assert (run.data_dir / "run").read_bytes() == b"", "nobody is led to it any more"


@pytest.mark.parametrize("command", [MAKE, f"{MAKE} 2>&1 | tee log-of-make-run"], ids=["alone", "into tee"])
def test_ctrl_c_lets_a_stream_end_and_books_it(tmp_path: Path, command: str) -> None:
    with MakeRun(tmp_path, command.replace("log-of-make-run", str(tmp_path / "log"))) as run:
        stream = run.chat(words=20, stream=True)
        assert stream.reply.readline().startswith(b"data: ")
        run.ctrl_c()
        assert stream.text().rstrip().endswith("data: [DONE]"), "ten seconds, where five were given once"
        run.gone()
        assert run.statuses() == ["ok"]


def test_a_second_ctrl_c_ends_it_at_once_and_books_what_was_cut(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        stream = run.chat(words=200, stream=True)
        assert stream.reply.readline().startswith(b"data: ")
        run.ctrl_c()
        wait_for(lambda: "Ctrl-C again stops at once" in run.shown())
        run.ctrl_c()
        run.gone(15)
        with pytest.raises(http.client.IncompleteRead):
            stream.text()
        assert len(run.statuses()) == 1


def test_ctrl_c_lets_a_job_end_and_books_it(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        assert run.chat("slow", path="/v1/chat/async").reply.status == 202
        wait_for(lambda: "job_started" in run.shown())
        run.ctrl_c()
        run.gone()
        assert "job_ended" in run.shown()
        assert run.statuses() == ["ok"]


def test_a_closed_terminal_ends_it_and_its_stream_ends_well(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        stream = run.chat(words=10, stream=True)
        assert stream.reply.readline().startswith(b"data: ")
        run.close_terminal()
        assert stream.text().rstrip().endswith("data: [DONE]")
        run.gone()
        assert run.statuses() == ["ok"]


def test_killing_the_process_that_make_started_ends_everything_orderly(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        stream = run.chat(words=10, stream=True)
        assert stream.reply.readline().startswith(b"data: ")
        run.supervisors[0].kill()
        assert stream.text().rstrip().endswith("data: [DONE]")
        run.gone()
        assert run.statuses() == ["ok"]


def test_killing_make_ends_everything_in_good_order(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        [make] = [each for each in run.family if each.name() == "make"]
        make.kill()
        run.gone()


def test_killing_every_supervisor_leaves_no_process_and_loses_no_row(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        stream = run.chat(words=6, stream=True)
        assert stream.reply.readline().startswith(b"data: ")
        for each in run.supervisors:
            each.kill()
        assert stream.text().rstrip().endswith("data: [DONE]")
        run.gone()
    with MakeRun(tmp_path) as again:
        wait_for(lambda: again.statuses() == ["ok"])


def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        parts = {
            "gateway": "gunicorn",
            "worker": "dramatiq-gevent",
            "ledger": "flask",
            "redis": "-server",
            "nginx": "nginx",
        }
        for name, part in parts.items():
            run.named(part).kill()
            wait_for(lambda name=name: f"{name} was killed by SIGKILL; it is started again." in run.shown())
            wait_for(lambda part=part: run.named(part).is_running())
        run.join_family()
        wait_for(lambda: _answers(run), timeout_s=60, message=run.shown()[-3000:])
        assert run.chat("slow", path="/v1/chat/async").reply.status == 202
        wait_for(lambda: "job_ended" in run.shown(), timeout_s=60)
        run.ctrl_c()
        run.gone()
        assert set(run.statuses()) == {"ok"}
        assert len(run.statuses()) == 2


def test_a_process_that_ends_repeatedly_stops_everything_with_its_output(tmp_path: Path) -> None:
    with MakeRun(tmp_path) as run:
        for times in range(1, 5):
            ledger = run.named("flask")
            wait_for(lambda times=times: run.shown().count("ledger_started") >= times)
            ledger.kill()
            ledger.wait(10)
            if times < 4:
                wait_for(lambda times=times: run.shown().count("it is started again") == times)
        run.gone()
        end = run.shown().partition("ledger was killed by SIGKILL, and has ended too often in a minute.")[2]
        assert "Its last lines:\nledger " in end
        assert run.process.wait(10) != 0


def test_sigterm_ends_it_also_when_it_reaches_make_and_its_child_alike(tmp_path: Path) -> None:
    """make passes it on: a second one must not hurry."""
    with MakeRun(tmp_path) as run:
        stream = run.chat(words=6, stream=True)
        assert stream.reply.readline().startswith(b"data: ")
        for each in [run.supervisors[0], run.supervisors[0].parent()]:
            assert each is not None
            each.send_signal(signal.SIGTERM)
        assert stream.text().rstrip().endswith("data: [DONE]")
        run.gone()
        assert run.statuses() == ["ok"]


def _answers(run: MakeRun) -> bool:
    try:
        return run.chat().reply.status == 200
    except OSError:
        return False
