"""The gateway does what its OpenAPI document says: generated requests, right and wrong, and the answers to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.api.web import document
from tests.support.servers import ADMIN_KEY, ROOT, Gateway

# More: OPENAPI_EXAMPLES=500 pytest -s tests/contract/test_openapi_conformance.py
_EXAMPLES = os.environ.get("OPENAPI_EXAMPLES", "20")
_CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models:
  demo: {targets: [{provider: demo}]}
  demo-moderation: {kind: moderation, targets: [{provider: demo}]}
  demo-audio: {kind: audio, targets: [{provider: demo}]}
  demo-image: {kind: image, targets: [{provider: demo}]}
"""


@pytest.mark.timeout(300)
def test_every_answer_is_documented_and_valid_requests_are_taken(
    gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    served = gateway(_CONFIG, env={"CALLBACK_SECRET": "whsec_" + "QUJD" * 11})
    command = [
        str(Path(sys.executable).parent / "st"),
        "run",
        f"{served.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {ADMIN_KEY}",
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--max-examples",
        _EXAMPLES,
        "--generation-deterministic",
        "--continue-on-failure",
        "--no-color",
        "--request-timeout",
        "10",
    ]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.contract.openapi_cases",
    }
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280, check=False)
    summary = ran.stdout[ran.stdout.find("SUMMARY") :]
    print(summary)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    operations = sum(len(methods) for methods in document()["paths"].values())
    assert f"Tested: {operations}" in summary
    assert int(re.findall(r"(\d+) generated", summary)[0]) > 1_000
    assert served.log().count("unexpected_error") == 0
