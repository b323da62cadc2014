"""Commands gathered in a batch have the effect of commands sent one by one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.telemetry.buffer import MetricBuffer


def test_gathered_figures_are_those_of_writing_each_at_once() -> None:
    written = []
    for gathered in (False, True):
        registry = CollectorRegistry()
        calls = Counter("calls", "Calls.", ["model"], registry=registry)
        seconds = Histogram("seconds", "Seconds.", ["model"], buckets=(0.1, 1, 10), registry=registry)
        buffer = MetricBuffer(in_background=False)
        for model, value in (("a", 0.1), ("a", 0.11), ("b", 1), ("b", 11), ("a", 0)):
            if gathered:
                buffer.inc(calls.labels(model), 2)
                buffer.observe(seconds.labels(model), value)
            else:
                calls.labels(model).inc(2)
                seconds.labels(model).observe(value)
        buffer.flush()
        buffer.flush()
        lines = generate_latest(registry).decode().splitlines()
        written.append([line for line in lines if "_created" not in line])
    assert written[0] == written[1]
    assert 'seconds_bucket{le="0.1",model="a"} 2.0' in written[1]
