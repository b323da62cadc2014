"""The length of recordings: by the header where it says so, else as long as it can be."""

from __future__ import annotations

import io
import struct
import wave

import pytest

from app.domain.recordings import most_seconds_of, seconds_of


def wav(seconds: int, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(b"\0\0" * rate * seconds)
    return file.getvalue()


def flac(rate: int, samples: int) -> bytes:
    packed = (rate << 44 | 1 << 41 | 15 << 36 | samples).to_bytes(8, "big")
    return b"fLaC\x00\x00\x00\x22" + b"\0" * 10 + packed + b"\0" * 5000


def ogg(kind: bytes, granule: int) -> bytes:
    page = b"OggS\x00\x02" + b"\0" * 8 + b"\0" * 14 + kind
    return page + b"\1" * 3000 + b"OggS\x00\x04" + struct.pack("<q", granule) + b"\0" * 300


def mp3(seconds: int, kbits: int = 128) -> bytes:
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + b"\0" * 128
    return tag + (b"\xff\xfb\x90\x00" + b"\0" * (kbits * 125 - 4)) * seconds


@pytest.mark.parametrize(
    ("audio", "seconds"),
    [
        (wav(3), (3, 4)),
        (wav(90, 8000), (90, 91)),
        (flac(44_100, 44_100 * 61), (61, 61)),
        (ogg(b"OpusHead", 48_000 * 12), (12, 12)),
        (ogg(b"\x01vorbis" + b"\0" * 5 + struct.pack("<I", 44_100), 44_100 * 7), (7, 7)),
        (mp3(20), (20, 20)),
        (mp3(20).replace(b"\xff\xfb\x90\x00\0\0\0\0", b"\xff\xfb\x90\x00Xing", 1), (40, 40)),
        (b"", (0, 0)),
        (b"anything" * 1000, (16, 16)),
    ],
)
def test_the_length_of_a_recording_is_known(audio: bytes, seconds: tuple[int, int]) -> None:
    assert seconds[0] <= seconds_of(memoryview(audio)) <= seconds[1]


@pytest.mark.parametrize(
    "audio",
    [
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 0, 0, 0, 0) + b"\0" * 1000,
        b"RIFF\0\0\0\0WAVEfmt ",
        flac(0, 5),
        flac(44_100, 0),
        ogg(b"OpusHead", -1),
        ogg(b"Speex   ", 5),
        b"\xff\xfb\xf0\x00" * 300,
        b"\xff\xfb",
        b"ID3",
    ],
)
def test_a_header_that_says_nothing_makes_no_recording_short(audio: bytes) -> None:
    assert seconds_of(memoryview(audio)) == -(-len(audio) // 500)


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def fmt(rate: int = 8000, channels: int = 1, bits: int = 16, *, tag: int = 1, byte_rate: int | None = None) -> bytes:
    block = channels * bits // 8
    real = rate * block if byte_rate is None else byte_rate
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, real, block, bits))


DATA = chunk(b"data", b"\0" * 160_000)
LOUD_THEN_LOW = b"\xff\xfb\xe0\x00" + b"\0" * 1040 + (b"\xff\xe3\x18\x00" + b"\0" * 68) * 1000


OPUS = b"OpusHead" + b"\0" * 11
VORBIS = b"\x01vorbis" + b"\0" * 5 + struct.pack("<I", 44_100) + b"\0" * 14


def page(flags: int, granule: int, packets: list[bytes]) -> bytes:
    sizes = bytes(map(len, packets))
    return b"OggS\0" + struct.pack("<BqIIIB", flags, granule, 1, 0, 0, len(sizes)) + sizes + b"".join(packets)


def pages(head: bytes, packets: list[bytes], granule: int) -> bytes:
    bodies = (packets[at : at + 200] for at in range(0, len(packets), 200))
    return page(2, 0, [head]) + b"".join(page(0, granule, body) for body in bodies)


@pytest.mark.parametrize(
    ("audio", "seconds"),
    [
        (wav(10), (10, 11)),
        (riff(chunk(b"LIST", b"abc"), fmt(), DATA), (10, 11)),
        (riff(fmt(tag=3, bits=32), DATA), (5, 6)),
        (riff(fmt(192_000, 8, 32), DATA), (1, 1)),
        (mp3(20), (320, 330)),
        (LOUD_THEN_LOW, (72, 74)),
        (pages(OPUS, [b"\1" * 250] * 100, 1), (51, 52)),
        (pages(OPUS, [b"\1" * 250] * 100, 48_000 * 90), (90, 90)),
        (pages(OPUS, [b"\x1b"] * 5000, 1), (600, 601)),  # 120 ms of silence each
        (pages(VORBIS, [b"\1" * 10] * 1000, 1), (92, 94)),
    ],
)
def test_no_header_makes_the_bound_of_a_recording_shorter(audio: bytes, seconds: tuple[int, int]) -> None:
    most = most_seconds_of(memoryview(audio))
    assert most is not None
    assert seconds[0] <= most <= seconds[1]


@pytest.mark.parametrize(
    "audio",
    [
        b"",
        b"anything" * 1000,
        flac(44_100, 1),
        pages(b"Speex   ", [b"\1"], 5),
        pages(b"\x7fFLAC\x01\x00OpusHead", [b"\1"], 5),
        pages(OPUS, [b"\1"], 5) + pages(b"\x7fFLAC\x01", [b"\1"], 5),
        pages(OPUS, [b"\1"], 5) + b"\0" * 50,
        riff(chunk(b"JUNK", fmt(192_000, 8, 32)), fmt(), DATA),
        riff(fmt(192_000, 8, 32), fmt(), DATA),
        riff(fmt(tag=0x11, bits=4), DATA),
        riff(fmt(384_000), DATA),
        riff(fmt(channels=9), DATA),
        riff(fmt(byte_rate=10**9), DATA),
        riff(fmt()),
        riff(DATA, fmt()),
        b"RIFF\0\0\0\0WAVE",
        b"ID3\x04\0\0\0\0\0\0fLaC" + b"\0" * 100,
    ],
)
def test_a_recording_without_a_bound_has_none(audio: bytes) -> None:
    assert most_seconds_of(memoryview(audio)) is None
