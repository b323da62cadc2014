"""RESP: the packing of commands, and the marker that a reply is not complete yet; from hiredis, by way of redis-py."""

from __future__ import annotations

from typing import Any

from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA

__all__ = ["BLOCK_BYTES", "NOT_ENOUGH_DATA", "Arg", "pack"]

Arg = str | bytes | int | float
BLOCK_BYTES = 65_536  # read from a socket at once
pack: Any = pack_command
