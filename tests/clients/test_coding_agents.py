"""Coding agents through a real gateway to a played vendor of each dialect: a prompt, a file read, a command run.

`make test-clients` installs them. What they showed is written into docs/clients.md; in CI it has to stand there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.table import Table
from tests.support.coding_agents import AGENTS, PACKAGES, Agent, Visit
from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed
from tests.support.vendors.gateway import DIALECTS, PRICES, alias, configuration
from tests.support.vendors.server import Vendors

pytestmark = [pytest.mark.clients, pytest.mark.timeout(150)]

# Gemini CLI refuses to run substitutions, so the sum is expr's.
PROMPT = "Read the file `{file}` and run the command `expr 40 + 2`, then say what both gave."
TITLES = {"opencode": 1}  # calls beside the turns: opencode asks for a title of the conversation
MODELS = ("agent", "agent-think")


@pytest.fixture(scope="module")
def penstock(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, played_vendors: Vendors
) -> Iterator[Gateway]:
    assert PACKAGES.is_dir(), "the agents are installed by `make test-clients`"
    flushed(redis_server.url)
    directory = tmp_path_factory.mktemp("agents")
    config = configuration(played_vendors, MODELS, drop=("tools.web_search",))
    with Gateway(directory, config, redis_url=redis_server.url, prices=PRICES) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """The results of this run, which it compares with the documents at its end, or writes there."""
    table = Table("coding-agents")
    yield table
    table.publish()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_an_agent_reads_a_file_runs_a_command_and_answers(
    agent: Agent, dialect: str, model: str, penstock: Gateway, vendors: Vendors, table: Table, tmp_path: Path
) -> None:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    (folder / "notes.txt").write_text("The code word is marmalade.\n")
    prompt = PROMPT.format(file=folder / "notes.txt")
    before = len(penstock.rows())
    visit = Visit(penstock.url, DEV_KEY, alias(dialect, model), home, folder, prompt)
    cell = table.begin(agent.name, agent.version, dialect)

    finished = agent.run(visit)

    told = f"{finished.stdout}\n{finished.stderr}\n{vendors.requests()}\n{penstock.log()}"[-6000:]
    assert finished.returncode == 0, told
    assert "marmalade" in finished.stdout, told
    assert "42" in finished.stdout, told
    penstock.drained()
    served = [request for request in vendors.requests() if request["status"] == 200]
    assert [request["status"] for request in vendors.requests()] == [200] * len(served), (
        "no call was refused or repeated"
    )
    assert {request["dialect"] for request in served} == {dialect}
    assert len(served) == 3 + TITLES.get(agent.name, 0), "one upstream call a turn"
    rows = penstock.rows()[before:]
    assert len(rows) == len(served), "one row a call"
    assert {row["status"] for row in rows} == {"ok"}
    sessions = {row["session"] for row in rows}
    assert len(sessions) == 1
    assert agent.name == "Gemini CLI" or sessions != {""}, "Gemini CLI says nothing of its session"
    cell.passed()
