"""The length of recordings: by the header where it says so, else as long as it can be."""

from __future__ import annotations

import io
import struct
import wave

import pytest

from app.domain.recordings import seconds_of


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
