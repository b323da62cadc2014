"""The supervisor with small programs: their stops and restarts in order, and no process left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.servers import ROOT, wait_for

pytestmark = pytest.mark.server  # it starts programs

DRIVER = """
import os, signal, sys
from scripts.console import Console
from scripts.supervisor import Program, Supervisor

console = Console()

def program(name, code, **more):
    return Program(name=name, command=[sys.executable, "-uc", code], env=os.environ, **more)

supervisor = Supervisor(
    [%s], console=console, report=lambda text: console.write(text.encode() + b"\\n"), is_ready=%s)
code = supervisor.run()
console.close(5)
sys.exit(code)
"""
LOOP = "import time; print('runs')\nwhile True: time.sleep(0.1)"


class Supervised:
    def __init__(self, output: Path, programs: str, is_ready: bool) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER % (programs, is_ready)], cwd=ROOT, stdout=file, stderr=file
            )

    def shown(self) -> str:
        return self._output.read_text()

    def says(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.shown().count(text) >= times, message=f"no {text!r}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def ends(self) -> tuple[int, list[str]]:
        """The exit code, and what was printed."""
        return self.process.wait(30), self.shown().splitlines()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(programs: str, *, is_ready: bool = True) -> Supervised:
        started.append(Supervised(tmp_path / f"output-{len(started)}", programs, is_ready))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_a_stage_is_stopped_when_the_one_before_has_ended(supervised: Callable[..., Supervised]) -> None:
    slow = "import signal, time; signal.signal(15, lambda *_: (time.sleep(0.5), print('first has ended'), exit()))"
    last = "import signal, time; signal.signal(15, lambda *_: (print('last is told'), exit()))"
    run = supervised(f"program('b', {last + chr(10) + LOOP!r}, stage=1), program('a', {slow + chr(10) + LOOP!r})")
    run.says("runs", 2)
    run.process.send_signal(signal.SIGTERM)
    code, lines = run.ends()
    assert code == 128 + signal.SIGTERM
    assert lines[-2:] == ["a | first has ended", "b | last is told"]


def test_what_does_not_end_is_killed_after_its_time(supervised: Callable[..., Supervised]) -> None:
    deaf = "import signal; signal.signal(15, signal.SIG_IGN)\n" + LOOP
    run = supervised(f"program('deaf', {deaf!r}, stop_timeout_s=0.5)")
    run.says("runs")
    run.process.send_signal(signal.SIGINT)
    code, lines = run.ends()
    assert (code, lines[-1]) == (130, "deaf does not end, and is killed.")


def test_ctrl_c_again_hurries_and_sigterm_again_does_not(supervised: Callable[..., Supervised]) -> None:
    code = (
        "import signal; signal.signal(15, lambda *_: print('finishes'));"
        "signal.signal(2, lambda *_: (print('hurries'), exit()))\n" + LOOP
    )
    run = supervised(f"program('a', {code!r}, hurry_signal=signal.SIGINT)")
    run.says("runs")
    run.process.send_signal(signal.SIGTERM)
    run.says("finishes")
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGHUP)
    run.process.send_signal(signal.SIGINT)
    _, lines = run.ends()
    assert lines[-3:] == ["a | finishes", "Stopping at once.", "a | hurries"]


def test_a_program_is_started_again_three_times_a_minute_and_no_more(supervised: Callable[..., Supervised]) -> None:
    code, lines = supervised(f"program('a', 'print(\"why\"); exit(7)'), program('b', {LOOP!r})").ends()
    assert code == 1
    assert lines.count("a ended with exit code 7; it is started again.") == 3
    end = lines.index("a ended with exit code 7, and has ended too often in a minute.")
    assert lines[end + 1 : end + 3] == ["Its last lines:", "a | why"]


def test_a_program_that_cannot_start_stops_everything_at_once(supervised: Callable[..., Supervised]) -> None:
    code, lines = supervised(f"program('a', 'exit(7)'), program('b', {LOOP!r})", is_ready=False).ends()
    assert code == 1
    assert "a ended with exit code 7." in lines
    assert not any("again" in line for line in lines)


def test_what_a_killed_program_leaves_is_ended(supervised: Callable[..., Supervised]) -> None:
    forks = f"import os; os.fork()\n{LOOP}"
    run = supervised(f"program('a', {forks!r})")
    run.says("runs", 2)
    [leader] = psutil.Process(run.process.pid).children()
    [left] = leader.children()
    leader.kill()
    run.says("it is started again")
    left.wait(10)
    run.process.send_signal(signal.SIGTERM)
    run.ends()


def test_no_program_outlives_a_supervisor_that_is_killed(supervised: Callable[..., Supervised]) -> None:
    run = supervised(f"program('a', {LOOP!r}), program('b', {LOOP!r})")
    run.says("runs", 2)
    children = run.children()
    run.process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert (len(children), alive) == (2, [])


def test_a_program_that_is_still_starting_may_do_its_work_before_it_ends(supervised: Callable[..., Supervised]) -> None:
    starting = (
        "import signal, time; print('starts'); time.sleep(1)\n"
        "signal.signal(15, lambda *_: (print('its work'), exit())); signal.pthread_sigmask(signal.SIG_UNBLOCK, [15])\n"
    )
    run = supervised(f"program('a', {starting + LOOP!r}, defers_stop=True)")
    run.says("starts")
    run.process.send_signal(signal.SIGTERM)
    assert run.ends()[1][-1] == "a | its work"
