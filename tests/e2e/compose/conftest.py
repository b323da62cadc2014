"""One installation for all the tests in here: base images, build, up; and everything down again at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.compose.engine import NoEngine, engine
from tests.e2e.compose.installation import Installation


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """An engine with the local base images."""
    try:
        with engine() as address:
            made = subprocess.run(
                [str(Path(__file__).with_name("bases.sh"))],
                env={**os.environ, "DOCKER_HOST": address},
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert made.returncode == 0, f"no base images:\n{made.stdout}{made.stderr}"
            yield address
    except NoEngine as exc:
        pytest.exit(str(exc), returncode=1)


@pytest.fixture(scope="session")
def built(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Not started yet."""
    installation = Installation(tmp_path_factory.mktemp("penstock"), docker_host)
    leftovers = ("-v", "--remove-orphans", "-t", "2")
    installation.down(*leftovers)
    try:
        installation.build()
        yield installation
    finally:
        installation.down(*leftovers)


@pytest.fixture(scope="session")
def first_start_s(built: Installation) -> float:
    """Seconds from `docker-compose up -d`, on a machine that has only the images, until everything is healthy."""
    return built.up()


@pytest.fixture
def penstock(built: Installation, first_start_s: float) -> Installation:
    """Running, with one gateway."""
    if len(built.inspect("gateway")) != 1 or any(
        built.health(service) != {"healthy"} for service in ("gateway", "nginx")
    ):
        built.up("--scale", "gateway=1")
    return built
