"""gunicorn's settings: gevent workers that drain before they stop, and per-worker Prometheus files.

Read again on SIGHUP: new workers start with the new configuration, the old ones finish their calls. A wrong
configuration changes nothing but the log.
"""

# First of all: the modules imported below must find the patched socket and ssl modules in every worker.
from gevent import monkey

monkey.patch_all()

import contextlib
import gc
import os
import shutil
import sys

import structlog

from app.config.serving import missing_keys
from app.config_snapshot import adopt
from app.errors import ConfigError
from app.net.descriptors import connections_within, raise_limit
from app.server.worker import Worker
from app.telemetry.logging import configure_logging

_settings, _refused = adopt(os.environ)
configure_logging(_settings.log_level, _settings.env == "production", _settings.secrets)
if _refused is not None:
    structlog.get_logger().error(
        "config_refused", reason=_refused.message, effect="the last good one stays, if there is one"
    )
for _provider, _variable, _models in missing_keys(_settings.config):
    # A first run in development has none, and the demo model answers: nothing to warn of.
    _write_log = structlog.get_logger().info if _settings.env == "development" else structlog.get_logger().warning
    _write_log("provider_without_key", provider=_provider, set=_variable, models=_models)
if os.environ.get("FLASK_ENV") not in (None, "", _settings.env):
    structlog.get_logger().warning("variable_not_read", variable="FLASK_ENV", instead=f"GATEWAY_ENV={_settings.env}")
_metrics_dir = _settings.data_dir.absolute() / "prometheus"
# prometheus_client reads it at import, in the workers.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_dir)
# The workers' modules are imported before they are forked: one starts in 0.04 s of CPU instead of 0.64, and two
# with their master take 103 MB instead of 170. A reload therefore takes new configuration, and never new code.
import app.api.cors
import app.api.fast_path  # with all views, and all services
import app.cli  # noqa: F401

bind = f"{_settings.host}:{_settings.port}"
workers = _settings.workers
worker_class = "app.server.worker.Worker"
# Streams a worker may hold; each takes two descriptors and 25 KB.
_descriptors, _most_connections = raise_limit(), 8192
worker_connections = connections_within(_descriptors, _most_connections)
if worker_connections < _most_connections:
    structlog.get_logger().warning(
        "few_descriptors", limit=_descriptors, worker_connections=worker_connections, wanted=_most_connections
    )
backlog = 4096
http_parser = "python"  # only for requests that are not plain: app/server/connection.py reads the others
keepalive = 75  # longer than a load balancer's, so that it never meets a connection that is just closing
timeout = 60  # of a worker whose event loop is stuck; calls have their own
graceful_timeout = _settings.config.server.drain_s + Worker.settling_s
max_requests = 500_000  # a worker is replaced now and then, so that a leak in any library stays small
max_requests_jitter = 50_000
accesslog = None  # the application logs every request itself
errorlog = "-"
loglevel = "warning" if _settings.log_level == "info" else _settings.log_level
logger_class = "app.telemetry.gunicorn_logger.GunicornLogger"
forwarded_allow_ips = ",".join(_settings.forwarded_allow_ips)  # nginx's addresses or networks
control_socket_disable = True
proc_name = "penstock"


def on_starting(server):
    from app.services import check_installation

    try:
        check_installation(_settings)
    except ConfigError as exc:
        print(exc.message, file=sys.stderr, flush=True)
        sys.exit(1)
    gc.freeze()  # the collector would write to the shared pages
    # An earlier master's files would be counted as this one's.
    shutil.rmtree(_metrics_dir, ignore_errors=True)
    with contextlib.suppress(OSError):  # a full disk: there will be no figures
        _metrics_dir.mkdir(parents=True, exist_ok=True)  # a mount point stays


def child_exit(server, worker):
    # A dead worker's gauges go, its counters stay: they must never run backwards.
    from app.telemetry.metrics import remove_worker

    remove_worker(worker.pid)
