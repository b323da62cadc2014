#!/bin/sh
# Starts Redis with the shared password. The configuration goes in by standard input: neither a file that would hold
# the password nor a command line that would show it.
set -eu
exec redis-server - <<CONFIG
bind 0.0.0.0 -::*
port 6379
dir /data
requirepass $(cat /run/penstock/redis-password)

# Running calls, counters and rows on their way to the ledger survive a restart; a power cut costs the last second.
appendonly yes
appendfsync everysec
save ""

# Full means refuse, never forget. Every other policy would drop what must not be lost: budgets already spent, running
# calls and the marks of settled ones have a TTL just as cached answers do, so volatile-* cannot tell them apart (and
# volatile-ttl would begin with the month's budget in its last hours). Refused, new calls get 503 and the settlements of
# running ones wait on disk; draining the outbox and the cache's own TTL make room again.
maxmemory ${REDIS_MAXMEMORY:-512mb}
maxmemory-policy noeviction

loglevel notice
tcp-keepalive 60
CONFIG
