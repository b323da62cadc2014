"""Frameworks as clients of a real gateway, each by a played vendor of each dialect: a prompt, a stream, a tool loop."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.clients import frameworks
from tests.clients.table import Table
from tests.support.coding_agents import ROOT
from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed
from tests.support.vendors.gateway import DIALECTS, PRICES, alias, configuration
from tests.support.vendors.server import Vendors

pytestmark = [pytest.mark.clients, pytest.mark.timeout(150)]

PYTHON = ROOT / ".cache" / "sdks" / "bin" / "python"
_PACKAGES = {"LangChain ChatOpenAI": "langchain-openai", "LangChain ChatAnthropic": "langchain-anthropic"}
_PACKAGES |= {"Pydantic AI": "pydantic-ai-slim", "LiteLLM": "litellm"}


def version_of(framework: str) -> str:
    package = next(package for prefix, package in _PACKAGES.items() if framework.startswith(prefix))
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements-clients.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def penstock(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, played_vendors: Vendors
) -> Iterator[Gateway]:
    assert PYTHON.exists(), "the frameworks are installed by `make test-clients`"
    flushed(redis_server.url)
    config = configuration(played_vendors, ("plain", "tools"))
    with Gateway(tmp_path_factory.mktemp("frameworks"), config, redis_url=redis_server.url, prices=PRICES) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table("frameworks")
    yield table
    table.publish()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS)
def test_a_framework_answers_streams_and_uses_a_tool(
    framework: str, dialect: str, penstock: Gateway, vendors: Vendors, table: Table
) -> None:
    before = len(penstock.rows())
    cell = table.begin(framework, version_of(framework), dialect)
    env = {
        "PATH": os.environ["PATH"],
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = [str(PYTHON), frameworks.__file__, framework, penstock.url, DEV_KEY, alias(dialect, "")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=env)
    told = f"{finished.stderr}\n{vendors.requests()}\n{penstock.log()}"[-6000:]
    assert finished.returncode == 0, told
    got = json.loads(finished.stdout.splitlines()[-1])
    # Google's function responses are objects, and the frameworks name what is in them as they like.
    assert re.fullmatch(r'The tools said: (sunny|\{"\w+":"sunny"\})\.', got.pop("loop"))
    assert got == {"text": "Hello there.", "streamed": "Hello there.", "asked": ["Ulm"]}
    requests = vendors.requests()
    assert [request["status"] for request in requests] == [200] * 4, "one upstream call a turn"
    assert {request["dialect"] for request in requests} == {dialect}
    penstock.drained()
    assert [row["status"] for row in penstock.rows()[before:]] == ["ok"] * 4, "one row a call"
    cell.passed()
