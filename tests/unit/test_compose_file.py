"""The containers' environment after `docker-compose up` with nothing prepared, read from the file itself."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from tests.support.servers import ROOT

# What only the programs of `make run` and the tests read, of which a container has none.
OF_MAKE_RUN = {"TLS_PORT", "REDIS_SERVER"}


@cache
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def documented() -> set[str]:
    """The variables of .env.example, those that are commented out as well."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return {name for line in lines for name in re.findall(r"\b([A-Z][A-Z_]+)=", line) if name != "NAME"}


def test_nothing_needs_a_file_that_a_clone_does_not_have() -> None:
    for name, service in compose()["services"].items():
        for file in service.get("env_file", []):
            default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file)
            assert (ROOT / default).is_file(), name
            assert default != ".env"
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{\w+(?::?\?[^}]*)?\}", text) == [], "a variable without a default"


@pytest.mark.parametrize("variable", sorted(documented() - OF_MAKE_RUN))
def test_every_documented_variable_reaches_the_containers_or_is_fixed(variable: str) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    fixed = compose()["services"]["gateway"]["environment"] | compose()["services"]["worker"]["environment"]
    assert f"${{{variable}:-" in text or variable in fixed


def test_every_key_of_the_shipped_configuration_reaches_who_reads_it() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "config" / "gateway.yaml").read_text())) - {"NAME"}
    assert "OPENAI_API_KEY" in used
    for service in ("gateway", "worker", "ledger"):
        assert used <= set(compose()["services"][service]["environment"]), service


def test_every_secret_may_be_a_file_in_a_container() -> None:
    from app.settings import _SECRETS

    gateway = compose()["services"]["gateway"]["environment"]
    assert [name for name in _SECRETS if not {name, f"{name}_FILE"} <= set(gateway)] == []


def told_when_nothing_is_set() -> dict[str, str]:
    """The gateway's environment where neither the shell nor a .env says anything."""
    environment = compose()["services"]["gateway"]["environment"]
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
        for name, value in environment.items()
        if value is not None
    }


def test_a_container_that_is_told_nothing_starts_in_production() -> None:
    told = told_when_nothing_is_set()
    told["GATEWAY_CONFIG"] = str(ROOT / told["GATEWAY_CONFIG"])
    del told["REDIS_URL_FILE"], told["ADMIN_KEY_FILE"]  # which `setup` makes
    settings = load_settings(told)
    assert (settings.env, settings.admin_key, settings.dev_api_key) == ("production", None, None)


def test_gunicorn_takes_nothing_for_nothing() -> None:
    """It reads some variables itself, while it is imported."""
    command = [sys.executable, "-c", "import gunicorn.config"]
    done = subprocess.run(command, env=told_when_nothing_is_set(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
