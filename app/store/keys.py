"""API keys: the database is authoritative, Redis mirrors it so that a worker can check a key in its one round trip.

The mirror of a key is a JSON record, `-` for a key that does not exist, or nothing yet. Three rules keep a revoked
key from coming back. A reader that asked the database only fills an empty mirror (SET NX), so it cannot overwrite
news. A revocation is written to the database first and then over whatever the mirror holds, where it stays as long
as any record of the key could. And `sync_mirror`, every second, writes the recent revocations again, for a Redis
that was away, or that lost its last second in a crash.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from app.domain.identity import DEFAULT_PLAN, Caller, Role, display_prefix, hash_key, new_key
from app.errors import InvalidRequest, NotFound, StoreUnavailable
from app.store.redis.client import Redis
from app.store.redis.keys import KEY_RECORD, KEYS_SYNCED
from app.store.sql.database import Database
from app.store.sql.tables import api_keys, audit

log = structlog.get_logger()

_MIRROR_TTL_S = 3600
_NEGATIVE = b"-"
_NEGATIVE_TTL_S = 5
# Covers clocks that differ between machines, and transactions that took a while to commit.
_SYNC_OVERLAP_S = 60.0
_SYNC_PAGE = 500
_NAME_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """The data of a key, without the key itself. Times are Unix seconds; `models` None means every model."""

    key_id: str
    prefix: str
    name: str
    role: Role
    plan: str
    models: tuple[str, ...] | None
    tenant: str
    expires_at: float | None
    created_at: float
    revoked_at: float | None


class Keys:
    """Commands on keys. Methods raise `StoreUnavailable`; `clock` is in Unix seconds."""

    def __init__(self, *, database: Database, redis: Redis, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._redis = redis
        self._clock = clock

    def create(
        self,
        name: str,
        plan: str = DEFAULT_PLAN,
        role: Role = Role.USER,
        models: Collection[str] | None = None,
        expires_at: float | None = None,
        tenant: str = "",
        actor: str = "cli",
    ) -> tuple[str, KeyInfo]:
        """Returns a new key, which cannot be read again, and its data. Raises `InvalidRequest` for a bad name."""
        if not name.strip() or len(name) > _NAME_CHARS or not name.isprintable():
            raise InvalidRequest(f"`name` must be 1 to {_NAME_CHARS} printable characters.", param="name")
        key, now = new_key(), self._clock()
        allowed = None if models is None else sorted(set(models))
        values: dict[str, Any] = {
            "key_id": f"key_{secrets.token_hex(8)}",
            "key_hash": hash_key(key),
            "prefix": display_prefix(key),
            "name": name,
            "role": role.value,
            "plan": plan,
            "tenant": tenant,
            "models": None if allowed is None else json.dumps(allowed),
            "expires_at": expires_at,
            "created_at": now,
            "revoked_at": None,
            "updated_at": now,
        }
        with self._database.write() as connection:
            connection.execute(api_keys.insert(), values)
            detail = {"name": name, "role": role.value, "plan": plan, "models": allowed, "expires_at": expires_at}
            _audit(connection, now, actor, "key.create", values["key_id"], detail)
            row = connection.execute(_by_id(values["key_id"])).one()
        try:
            self._write_mirror(row)
        except StoreUnavailable:
            # The key is valid and can be shown only now; its first call will find it in the database.
            log.warning("key_not_mirrored", key_id=row.key_id)
        return key, _info(row)

    def get(self, key_id: str) -> KeyInfo:
        """Returns a key's data. Raises `NotFound`."""
        with self._database.read() as connection:
            return _info(_found(connection, key_id))

    def list(self, *, include_revoked: bool = True) -> Sequence[KeyInfo]:
        """Returns all keys' data, oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
        if not include_revoked:
            query = query.where(api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            return tuple(_info(row) for row in connection.execute(query))

    def revoke(self, key_id: str, actor: str = "cli") -> KeyInfo:
        """Revokes a key for good; a second time changes nothing. Raises `NotFound`.

        Raises `StoreUnavailable` also when only Redis did not answer: the message says so.
        """
        now = self._clock()
        with self._database.write() as connection:
            row = _found(connection, key_id)
            if row.revoked_at is None:
                change = api_keys.update().where(api_keys.c.key_id == key_id)
                connection.execute(change.values(revoked_at=now, updated_at=now))
                _audit(connection, now, actor, "key.revoke", key_id, {"name": row.name})
                row = _found(connection, key_id)
        try:
            self._write_mirror(row)
        except StoreUnavailable as exc:
            raise StoreUnavailable(
                f"{key_id} is revoked in the database, but Redis does not answer: "
                "calls may still be let in until a second after it is back and the ledger process runs."
            ) from exc
        return _info(row)

    def authenticate(self, key_hash: str) -> Caller | None:
        """Returns the caller of the key with this SHA-256 (hex), also of an expired one; None if unknown or revoked."""
        mirrored = self._redis.execute("GET", _mirror_key(key_hash))
        if mirrored is None:
            record = self._record_in_database(key_hash)
            ttl_s = _NEGATIVE_TTL_S if record == _NEGATIVE else _MIRROR_TTL_S
            won = self._redis.execute("SET", _mirror_key(key_hash), record, "NX", "EX", ttl_s)
            # Another writer was first, perhaps with a revocation: its record counts.
            mirrored = record if won else self._redis.execute("GET", _mirror_key(key_hash)) or record
        return decode_record(mirrored, key_hash)

    def authenticate_from_database(self, key_hash: str) -> Caller | None:
        """Returns the same as `authenticate`, from the database alone: for the time that Redis is away."""
        return decode_record(self._record_in_database(key_hash), key_hash)

    def sync_mirror(self, since: float | None = None) -> int:
        """Writes the keys changed since `since` to the mirror; returns how many of them are revoked.

        The default is the last sync that Redis remembers: if it lost a second of its data, that second is included.
        """
        now = self._clock()
        if since is None:
            synced = float(self._redis.execute("GET", KEYS_SYNCED) or 0)
            # No record outlives its TTL, so an older change cannot be missing from the mirror.
            since = max(min(synced, now), now - _MIRROR_TTL_S) - _SYNC_OVERLAP_S
        with self._database.read() as connection:
            changed = connection.execute(sa.select(api_keys).where(api_keys.c.updated_at >= since)).all()
        commands: list[tuple[str | bytes | int, ...]] = []
        for row in changed:
            # Only a revocation is final, so only it may overwrite: another record could be older than the one there.
            condition = () if row.revoked_at is not None else ("NX",)
            commands.append(("SET", _mirror_key(row.key_hash), _record(row), *condition, "EX", _MIRROR_TTL_S))
        for start in range(0, len(commands), _SYNC_PAGE):
            self._redis.pipeline(commands[start : start + _SYNC_PAGE])
        # Last: if Redis forgets a record of the above, it has forgotten this too.
        self._redis.execute("SET", KEYS_SYNCED, repr(now), "EX", _MIRROR_TTL_S)
        return sum(row.revoked_at is not None for row in changed)

    def _write_mirror(self, row: Row[Any]) -> None:
        self._redis.execute("SET", _mirror_key(row.key_hash), _record(row), "EX", _MIRROR_TTL_S)

    def _record_in_database(self, key_hash: str) -> bytes:
        with self._database.read() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.key_hash == key_hash)).one_or_none()
        return _NEGATIVE if row is None else _record(row)


def decode_record(record: bytes, key_hash: str) -> Caller | None:
    """Returns the caller of a mirrored record; None for `-`, a revoked key, or an unreadable record."""
    try:
        fields = json.loads(record)
        if fields["revoked"] is not False:
            return None
        models = fields["models"]
        return Caller(
            key_id=fields["key_id"],
            name=fields["name"],
            role=Role(fields["role"]),
            plan=fields["plan"],
            models=None if models is None else frozenset(models),
            tenant=fields["tenant"],
            expires_at=fields["expires_at"],
            key_hash=key_hash,
            record=record,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _record(row: Row[Any]) -> bytes:
    """Returns the record that the mirror holds. The same key always gives the same bytes: admission compares them."""
    fields = {
        "key_id": row.key_id,
        "name": row.name,
        "role": row.role,
        "plan": row.plan,
        "tenant": row.tenant,
        "models": None if row.models is None else json.loads(row.models),
        "expires_at": row.expires_at,
        "revoked": row.revoked_at is not None,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _mirror_key(key_hash: str) -> str:
    return KEY_RECORD + key_hash


def _by_id(key_id: str) -> Any:
    return sa.select(api_keys).where(api_keys.c.key_id == key_id)


def _found(connection: Connection, key_id: str) -> Row[Any]:
    row = connection.execute(_by_id(key_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no key with the id {key_id[:64]!r}.", param="key_id")
    return row


def _audit(connection: Connection, now: float, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    values = {"ts": now, "actor": actor, "action": action, "subject": subject, "detail": json.dumps(detail)}
    connection.execute(audit.insert(), values)


def _info(row: Row[Any]) -> KeyInfo:
    return KeyInfo(
        key_id=row.key_id,
        prefix=row.prefix,
        name=row.name,
        role=Role(row.role),
        plan=row.plan,
        models=None if row.models is None else tuple(json.loads(row.models)),
        tenant=row.tenant,
        expires_at=row.expires_at,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
