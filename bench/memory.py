"""Memory growth, `python -m bench.memory`: the gateway's tree after 20,000 and 200,000 calls, every tenth a stream."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.environment import Environment
from bench.measure import find_problem, load
from bench.scenarios import LIMITED, VALID, Scenario, question

_MIX = (
    Scenario(name="completion", body=question("plain"), calls=1200),
    Scenario(name="cached", body=question("plain", temperature=0), calls=300),
    Scenario(name="429", body=question("plain"), calls=300, status="429", key=LIMITED),
    Scenario(name="stream", body=question("stream-5-0", stream=True), calls=200, chunks=5),
)
_ROUND = sum(scenario.calls for scenario in _MIX)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        env = Environment(stack, Path(name))
        print(f"{'calls':>8} {'MB (PSS)':>9}")
        for done in range(0, 200_000 + _ROUND, _ROUND):
            if done in (0, 20_000) or done % 40_000 == 0:
                env.gateway.drained(120)
                print(f"{done:8} {env.memory_mb():9.1f}")
                sys.stdout.flush()
            for scenario in _MIX:
                wrong = find_problem(scenario, load(env.gateway.port, scenario, env.keys.get(scenario.key, VALID)))
                if wrong:
                    raise SystemExit(f"{scenario.name}: {wrong}")


if __name__ == "__main__":
    main()
