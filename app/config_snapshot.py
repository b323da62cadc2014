"""Configuration snapshot: the validated copy of the files that all workers run with. An invalid edit never replaces it.

gunicorn's master makes the copy at start and at each reload (SIGHUP). A worker that is started at any other time, after
a crash for instance, reads the copy too: all workers have the same configuration, whatever is being edited.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from app.config.files import support_prompt_path
from app.errors import ConfigError
from app.settings import CONFIG_COPY, Settings, load_settings


def adopt(environ: MutableMapping[str, str]) -> tuple[Settings, ConfigError | None]:
    """Returns the settings to run with, and the error if the new ones were not adopted and the last good ones stay.

    Names the copy in `environ`, for workers. Raises `ConfigError` when there is nothing to fall back on; a gateway that
    cannot make its first copy runs with the files themselves.
    """
    last_good = environ.pop(CONFIG_COPY, None)
    try:
        settings = load_settings(environ)
    except ConfigError as exc:
        if last_good is None:
            raise
        environ[CONFIG_COPY] = last_good
        return load_settings(environ), exc
    directory = settings.data_dir.absolute() / "config-in-use"
    try:
        _write_snapshot(settings, directory)
    except OSError as exc:
        if last_good is not None:
            environ[CONFIG_COPY] = last_good
        return settings if last_good is None else load_settings(environ), _write_error(directory, exc)
    environ[CONFIG_COPY] = str(directory / "gateway.yaml")
    return settings, None


def _write_snapshot(settings: Settings, directory: Path) -> None:
    """Replaces the snapshot. Raises OSError, on a full disk for instance; the previous snapshot is then whole."""
    (directory / "prompts").mkdir(parents=True, exist_ok=True)
    prompt = support_prompt_path(settings.config_path, settings.config)
    # The file that names the others goes last: a worker that starts meanwhile finds what it names.
    sources = {
        directory / "prompts" / prompt.name: prompt,
        directory / "prices.yaml": settings.prices_path,
        directory / "gateway.yaml": settings.config_path,
    }
    for copy, source in sources.items():
        if source.exists():
            copy.with_suffix(".new").write_bytes(source.read_bytes())
    for copy, source in sources.items():
        if source.exists():
            copy.with_suffix(".new").rename(copy)
        else:
            copy.unlink(missing_ok=True)


def _write_error(directory: Path, exc: OSError) -> ConfigError:
    return ConfigError(f"{directory}: cannot be written: {exc.strerror}")
