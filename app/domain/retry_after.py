"""The ceiling on waits between a refused call and its next attempt."""

from __future__ import annotations

# Of every Retry-After that we send, and every one that we obey. A longer one hangs openai-node, which sleeps the whole
# time, and stops openai-python from retrying (docs/clients.md, "Retries"). A vendor that names an hour, by mistake or
# because of a wrong clock, must not keep a target, a job or a batch waiting for so long.
MAX_RETRY_AFTER_S = 60.0
