"""Self-signed certificates, which no authority vouches for."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(directory: Path, *, subject: str = "/CN=127.0.0.1", days: int = 2) -> tuple[Path, Path]:
    """Makes a certificate for `subject` and for 127.0.0.1. Returns its file and its key's."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    names = ["-subj", subject, "-addext", "subjectAltName=IP:127.0.0.1"]
    command: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        *curve,
        "-days",
        str(days),
        *names,
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
