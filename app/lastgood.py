"""The configuration that the workers run with: a checked copy, which a wrong edit does not replace.

gunicorn's master makes the copy at start and at each reload (SIGHUP). A worker that is started at any other time, after
a crash say, reads the copy too: all workers run with the same configuration, whatever is being edited.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from app.errors import ConfigError
from app.settings import CONFIG_COPY, Settings, load_settings, support_prompt_path


def adopt(environ: MutableMapping[str, str]) -> tuple[Settings, ConfigError | None]:
    """The settings to run with; and what is wrong with the new ones, if the last good ones had to stay.

    Names the copy in `environ`, for workers. Raises `ConfigError` when there is nothing to fall back on.
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
    (directory / "prompts").mkdir(parents=True, exist_ok=True)
    prompt = support_prompt_path(settings.config_path, settings.config)
    # The file that names the others goes last: a worker that starts meanwhile finds what it names.
    for name, source in (
        (f"prompts/{prompt.name}", prompt),
        ("prices.yaml", settings.prices_path),
        ("gateway.yaml", settings.config_path),
    ):
        copy = directory / name
        if source.exists():
            new = copy.with_suffix(".new")
            new.write_bytes(source.read_bytes())
            new.rename(copy)
        else:
            copy.unlink(missing_ok=True)
    environ[CONFIG_COPY] = str(directory / "gateway.yaml")
    return settings, None
