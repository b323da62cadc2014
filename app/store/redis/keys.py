"""Redis key names: every one that the program uses, apart from those that Dramatiq makes of its namespace itself."""

from __future__ import annotations

OUTBOX = "penstock:outbox"
NOTHING = "penstock:none"  # stands where a script wants a key that this call has no use for
READY = "penstock:ready"  # written to see whether Redis takes writes
WORKERS = "penstock:workers"  # zset: worker id → its last heartbeat, Unix seconds by Redis's clock
RUNNING_CALLS = "penstock:running:"  # and an API key's id: its running calls
QUEUE = "queue"  # owns the reservations of queued calls, instead of a worker that could die
RESERVATIONS = "penstock:reservations:"  # and a worker's id, or QUEUE; zset: open call by deadline, Unix ms
KEY_RECORD = "penstock:key:"  # and an API key's SHA-256: the mirror of its record in the database
KEYS_SYNCED = "penstock:keys:synced"  # when the mirror was last brought up to date, Unix seconds
INSTALLATION = "penstock:installation"  # the id of the installation whose Redis this is
CONVERSATIONS = "penstock:conversations"  # zset: conversation by when it is forgotten, Unix milliseconds
RESPONSES = "penstock:responses"  # zset: kept response by when it is forgotten, Unix milliseconds
RESPONSES_OF_KEY = "penstock:responses:of:"  # and an API key's id; zset: its responses likewise
RESPONSE_SIZES = "penstock:responses:sizes"  # hash: kept response → "bytes owner"; sums of all and of each owner

# The job queue. A prefix ends in a colon.
JOB = "penstock:job:"  # and a job's id: hash of its fields
IDEMPOTENCY = "penstock:idempotency:"  # and an API key's id and the digest of its Idempotency-Key
QUEUE_WAITING = "penstock:queue:waiting"  # zset: job by when it was submitted
QUEUE_OF_KEY = "penstock:queue:of:"  # and an API key's id; zset: its waiting jobs by number
QUEUE_TURNS = "penstock:queue:turns"  # zset: API key's id by virtual time
QUEUE_RUNNING = "penstock:queue:running"  # zset: job by the end of its lease
QUEUE_LATER = "penstock:queue:later"  # zset: job by when it may run again
QUEUE_CANCELS = "penstock:queue:cancels"  # set: running jobs that are to be cancelled
QUEUE_UNSETTLED = "penstock:queue:unsettled"  # zset: cancelled jobs whose reservation is still to be settled
QUEUE_WORKERS = "penstock:queue:workers"  # zset: worker and slots by last sign of life
QUEUE_CLAIM = "penstock:queue:claim:"  # and a claim's name
QUEUE_FACTS = "penstock:queue:facts"  # hash: virtual clock, counters, mean duration
QUEUE_SIZES = "penstock:queue:sizes"  # hash: job → "bytes owner"
QUEUE_SHARES = "penstock:queue:shares"  # hash: API key's id → bytes
QUEUE_RESULTS = "penstock:queue:results"  # zset: ended jobs by when they expire

# Dramatiq's queues, under the names that it makes: `<namespace>:<queue>` is the list, `….msgs` its messages.
DRAMATIQ_NAMESPACE = "penstock:dramatiq"
JOBS_QUEUE, JOBS_ACTOR = "jobs", "run_jobs"  # its messages are the bells that wake workers
CALLBACKS_QUEUE, CALLBACKS_ACTOR = "callbacks", "call_back"  # tell callers of ended jobs
BELLS, BELL_MESSAGES = f"{DRAMATIQ_NAMESPACE}:{JOBS_QUEUE}", f"{DRAMATIQ_NAMESPACE}:{JOBS_QUEUE}.msgs"
CALLBACKS = f"{DRAMATIQ_NAMESPACE}:{CALLBACKS_QUEUE}"
CALLBACK_MESSAGES = f"{DRAMATIQ_NAMESPACE}:{CALLBACKS_QUEUE}.msgs"


def reservation_key(call_id: str) -> str:
    return f"penstock:reservation:{call_id}"


def reservations_key(owner: str) -> str:
    """Returns the key of the open reservations of a worker, by its id, or of the `QUEUE`."""
    return RESERVATIONS + owner


def cache_entry_key(cache_key: str) -> str:
    """Returns the key of the cached answer. The part of `cache_key` after an @ is left out: it tells apart callers who
    share the answer, but do not wait for each other."""
    return f"penstock:cache:{cache_key.partition('@')[0]}" if cache_key else NOTHING


def flight_key(cache_key: str) -> str:
    """Returns the key of the call that fetches an answer while identical ones wait for it."""
    return f"penstock:flight:{cache_key}" if cache_key else NOTHING


def cache_key_of_flight(key: str) -> str:
    """Returns the cache key that `flight_key` was given."""
    return key.removeprefix("penstock:flight:") if key != NOTHING else ""


def uncacheable_key(cache_key: str) -> str:
    """Returns the key that exists while an answer is known not to be kept."""
    return f"penstock:unkept:{cache_key.partition('@')[0]}"


def limit_key(key_id: str, limit: str) -> str:
    """Returns the counter of an API key's limit; a limit by day or month adds its window."""
    return f"penstock:limit:{key_id}:{limit}"


def limit_of_key(key: str) -> str:
    """Returns the name of the limit that `limit_key` was given."""
    return key.split(":")[3]


def history_key(key_id: str, user_digest: str) -> str:
    return f"penstock:history:{key_id}:{user_digest}"


def reasoning_key(key_id: str, call_digest: str) -> str:
    return f"penstock:reasoning:{key_id}:{call_digest}"


def response_key(key_id: str, response_digest: str) -> str:
    return f"penstock:response:{key_id}:{response_digest}"
