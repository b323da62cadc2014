"""`make`'s installation: wheels only, by their hashes, the same for every Python; begun anew after an interruption."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.servers import ROOT, wait_for

LOCKS = ("requirements.txt", "requirements-run.txt", "requirements-dev.txt", "requirements-clients.txt")


def names(path: str) -> set[str]:
    """The packages that a requirement file asks for."""
    found = re.findall(r"^[A-Za-z][\w.-]*", (ROOT / path).read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-") for name in found}


@pytest.mark.parametrize("path", ["Dockerfile", "Makefile", "render.yaml", "scripts/install.py"])
def test_whatever_installs_takes_wheels_only_and_by_their_hashes(path: str) -> None:
    words = (ROOT / path).read_text().replace('", "', " ")
    assert "--require-hashes" in words
    assert "--only-binary :all:" in words


def test_a_lock_holds_what_is_asked_for_and_names_no_registry() -> None:
    for lock in LOCKS:
        assert names(lock.replace(".txt", ".in")) <= names(lock), f"{lock}: `make requirements`"
        assert "://" not in (ROOT / lock).read_text()


def test_the_locks_are_for_every_python() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert "\nasync-timeout==5.0.1 ; python_full_version < '3.11.3'" in text, "which Debian 12 has"
    assert re.search(r"python_version (<|<=|==) ", text) is None


def test_running_takes_no_package_of_the_tests() -> None:
    of_tests = {"pytest", "mypy", "ruff", "hypothesis", "fakeredis", "schemathesis"}
    assert of_tests <= names("requirements-dev.txt")
    assert of_tests.isdisjoint(names("requirements.txt") | names("requirements-run.txt"))


def wheel(directory: Path, name: str) -> str:
    """A wheel with one module; its line for a lock."""
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "WHOLE = True\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    built = directory / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(built, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return f"{name}==1 --hash=sha256:{hashlib.sha256(built.read_bytes()).hexdigest()}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile and its script, and small packages in place of ours."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "scripts" / "install.py", tmp_path / "scripts")
    for lock, name in zip(LOCKS, ("product", "programs", "tests_only", "frameworks"), strict=True):
        (tmp_path / lock).write_text(wheel(tmp_path / "wheels", name))
    return tmp_path


def environment(project: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(project),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(project / "wheels"),
    }


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=120)


def is_installed(project: Path, module: str) -> bool:
    command = [str(project / ".venv/bin/python"), "-c", f"import {module}; assert {module}.WHOLE"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_what_is_needed_to_run_comes_first_and_the_tests_packages_on_top(project: Path) -> None:
    first = make(project, ".venv/stamp")
    assert first.returncode == 0, first.stderr
    assert (
        is_installed(project, "product"),
        is_installed(project, "programs"),
        is_installed(project, "tests_only"),
    ) == (True, True, False)
    assert make(project, "--question", ".venv/stamp").returncode == 0, "a second run has nothing to do"
    second = make(project, ".venv/stamp-dev")
    assert second.returncode == 0, second.stderr
    assert is_installed(project, "tests_only")
    assert make(project, "--question", ".venv/stamp", ".venv/stamp-dev").returncode == 0


def test_an_installation_that_was_killed_is_begun_anew(project: Path) -> None:
    venv = project / ".venv"
    command = ["make", f"PYTHON={sys.executable}", ".venv/stamp"]
    with subprocess.Popen(command, cwd=project, env=environment(project), start_new_session=True) as process:
        wait_for(lambda: (venv / "unfinished").exists(), timeout_s=60)
        os.killpg(process.pid, signal.SIGKILL)
    # As it is left in the midst of a package: pip would take this for an installed one.
    [packages] = venv.glob("lib/python*/site-packages")
    shutil.rmtree(packages / "product-1.dist-info", ignore_errors=True)
    (packages / "product.py").unlink(missing_ok=True)
    (packages / "product-1.dist-info").mkdir()
    (packages / "product-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: product\nVersion: 1\n")
    assert make(project, "--question", ".venv/stamp").returncode == 1
    again = make(project, ".venv/stamp")
    assert again.returncode == 0, again.stderr
    assert is_installed(project, "product")


def installed_without(project: Path, *modules: str) -> subprocess.CompletedProcess[str]:
    """The script under a Python that lacks modules, as distributions ship it."""
    script = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({modules!r})); sys.argv = ['install.py', 'run']; "
        "runpy.run_path('scripts/install.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=120)


def test_a_python_without_ensurepip_installs_by_the_pip_it_has(project: Path) -> None:
    done = installed_without(project, "ensurepip")
    assert done.returncode == 0, done.stderr
    assert is_installed(project, "product")
    assert not (project / ".venv/bin/pip").exists()


def test_a_python_that_cannot_install_says_what_it_lacks_in_one_line(project: Path) -> None:
    done = installed_without(project, "ensurepip", "pip")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "apt-get install python3-venv" in done.stderr
