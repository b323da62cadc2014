"""Logger class for gunicorn (`logger_class` in gunicorn.conf.py): its messages become our log lines."""

from __future__ import annotations

from typing import Any

from gunicorn import glogging


class GunicornLogger(glogging.Logger):
    """A logger that passes everything to standard logging's root, which `configure_logging` must have set up.

    There is no access log.
    """

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers = []
        self.error_log.propagate = True
        self._access_log_enabled = False
