"""Recordings: the length of an audio file in seconds, by its header where the format says it.

Only a few bytes are looked at. Formats: WAV (RFC 2361), MP3 (ISO 11172-3), FLAC (RFC 9639), Ogg Opus and Vorbis (RFC
7845, RFC 3533). What is of none of these, or contradicts itself, has the length of speech at a low bit rate.
"""

from __future__ import annotations

import math
import struct

# 4 kbit/s: telephone codecs are at 4.75 and more. A length that nobody knows is never taken for a shorter one.
_LEAST_BYTES_PER_SECOND = 500
_LEAST_MP3_BYTES_PER_SECOND = 1000  # 8 kbit/s, the lowest of layer III
_MOST_WAV_HEAD_BYTES = 65_536
_MOST_OGG_PAGES = 100_000  # more than a day at the usual second a page; they are looked at one by one
_PCM_BITS = {1: (8, 16, 24, 32), 3: (32, 64)}  # by format tag: integers, floating point
_MP3_KBITS = {
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1, layer III
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5, layer III
}
_LOWEST_SAMPLE_RATE = 4000


def seconds_of(audio: memoryview) -> int:
    """Returns the recording's length in whole seconds, rounded up: as long as it can be where it is not known."""
    head = bytes(audio[:4096])
    length = _of_wav(head, len(audio)) or _of_flac(head) or _of_ogg(head, audio) or _of_mp3(head, audio)
    return math.ceil(length if length > 0 else len(audio) / _LEAST_BYTES_PER_SECOND)


def most_seconds_of(audio: memoryview) -> int | None:
    """Returns what no recording of these bytes is longer than, whatever its header says; None where that is unknown.

    FLAC has no bound: an hour of silence takes a few bytes, and only its header says how long it is.
    """
    per_second = _pcm_bytes_per_second(bytes(audio[:_MOST_WAV_HEAD_BYTES]))
    if not per_second and _mp3_frame(bytes(audio[:10]), audio)[1]:
        per_second = _LEAST_MP3_BYTES_PER_SECOND
    if not per_second and (longest := _longest_of_ogg(audio)):
        # What the last page says counts where it is more: a vendor may believe it.
        return max(math.ceil(len(audio) / _LEAST_BYTES_PER_SECOND), math.ceil(longest), seconds_of(audio))
    return math.ceil(len(audio) / per_second) if per_second else None


def _longest_of_ogg(audio: memoryview) -> float:
    """Returns the most seconds that the packets of one Opus or Vorbis stream can hold; 0 for anything else.

    Packets are counted: one of silence takes two bytes, so that the length of the file bounds nothing.
    """
    first = bytes(audio[28:44])
    per_packet = 0.12 if first.startswith(b"OpusHead") else 0.0
    if first.startswith(b"\x01vorbis") and (rate := int.from_bytes(first[12:16], "little")) >= _LOWEST_SAMPLE_RATE:
        per_packet = 4096 / rate  # half of the longest block
    at = pages = packets = 0
    while len(audio) >= at + 27:
        page = bytes(audio[at : at + 27])
        begins = bool(page[5] & 2)
        if page[:4] != b"OggS" or begins != (at == 0) or pages == _MOST_OGG_PAGES:
            return 0
        laces = bytes(audio[at + 27 : at + 27 + page[26]])
        packets += len(laces) - laces.count(255)
        pages += 1
        at += 27 + len(laces) + sum(laces)
    return packets * per_packet


def _pcm_bytes_per_second(head: bytes) -> int:
    """Returns the rate of a WAV file of plain samples; 0 for any other, and for one that could be read in two ways."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    at, fmt = 12, b""
    while len(head) >= at + 8 and head[at : at + 4] != b"data":
        size = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"fmt ":
            fmt = head[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    # Not every decoder pads a chunk of odd size: a second name among the bytes could be the one that it finds.
    if len(head) < at + 8 or len(fmt) < 16 or head[:at].count(b"fmt ") != 1:
        return 0
    tag, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", fmt)
    is_plain = bits in _PCM_BITS.get(tag, ()) and block == channels * bits // 8 and byte_rate == rate * block
    is_usual = 1 <= channels <= 8 and _LOWEST_SAMPLE_RATE <= rate <= 192_000
    return byte_rate if is_plain and is_usual else 0


def _of_wav(head: bytes, size: int) -> float:
    at = head.find(b"fmt ") if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE" else -1
    if at < 0 or len(head) < at + 24:
        return 0
    _, channels, rate, byte_rate, _, bits = struct.unpack_from("<HHIIHH", head, at + 8)
    # A compressed WAV has no bits a sample that could be multiplied: its own rate of bytes is all that there is.
    per_second = rate * channels * bits // 8 if bits else byte_rate
    return size / per_second if rate >= _LOWEST_SAMPLE_RATE and per_second else 0


def _of_flac(head: bytes) -> float:
    if head[:4] != b"fLaC" or len(head) < 26:
        return 0
    packed = int.from_bytes(head[18:26], "big")  # 20 bits sample rate, 3 channels, 5 bits a sample, 36 samples
    rate, samples = packed >> 44, packed & 0xFFFFFFFFF
    return samples / rate if rate >= _LOWEST_SAMPLE_RATE else 0


def _of_ogg(head: bytes, audio: memoryview) -> float:
    if head[:4] != b"OggS":
        return 0
    rate = 48_000
    vorbis = head.find(b"\x01vorbis")
    if vorbis >= 0 and len(head) >= vorbis + 16:
        rate = int.from_bytes(head[vorbis + 12 : vorbis + 16], "little")
    elif b"OpusHead" not in head:
        return 0
    tail = bytes(audio[-65_536:])  # a page is no longer
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 14 or rate < _LOWEST_SAMPLE_RATE:
        return 0
    return max(int.from_bytes(tail[page + 6 : page + 14], "little", signed=True), 0) / rate


def _of_mp3(head: bytes, audio: memoryview) -> float:
    start, kbits = _mp3_frame(head, audio)
    if not kbits:
        return 0
    # With a variable bit rate the first frame says little: nearly all speech has at least half of what it says.
    return (len(audio) - start) * 8 / (kbits * 1000) * (1 if _is_constant(bytes(audio[start : start + 64])) else 2)


def _mp3_frame(head: bytes, audio: memoryview) -> tuple[int, int]:
    """Returns where the first frame of layer III is, and its bit rate: 0 when there is none."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:  # a tag in front, its length in four times seven bits
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    frame = bytes(audio[start : start + 4])
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return start, 0
    kbits, index = _MP3_KBITS[3 if frame[1] >> 3 & 3 == 3 else 2], frame[2] >> 4
    return start, kbits[index - 1] if 1 <= index <= len(kbits) else 0


def _is_constant(frame: bytes) -> bool:
    return b"Xing" not in frame and b"VBRI" not in frame
