"""A wrong setting stops the start with one line: the file, the field, and what is expected."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from app.config_snapshot import adopt
from app.errors import ConfigError
from app.runfile import RunFile, RunningGateway
from app.settings import Settings, default_worker_count, load_settings

GOOD = "providers: {demo: {kind: demo}}\nmodels: {demo: {targets: [{provider: demo}]}}\n"
RULES = "smart: {rules: [%s]}\n"


def load(tmp_path: Path, text: str = GOOD, prices: str = "", **env: str) -> Settings:
    config = tmp_path / "gateway.yaml"
    config.write_text(text)
    if prices:
        (tmp_path / "prices.yaml").write_text(prices)
    return load_settings({"GATEWAY_CONFIG": str(config), "DATA_DIR": str(tmp_path), **env})


def test_providers_and_models_are_enough(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert list(settings.config.plans) == ["default"]
    assert settings.database_url == f"sqlite:///{tmp_path}/ledger.db"
    assert settings.prices == {}


def test_commands_beside_make_run_find_its_redis_and_key_in_development(tmp_path: Path) -> None:
    (tmp_path / "dev-key").write_text("kept-key\n")
    held = RunFile(tmp_path)
    held.write(RunningGateway(1, "127.0.0.1", 9000, "its-key", "redis://:secret-password@127.0.0.1:1/0"))
    beside = load(tmp_path)
    assert (beside.redis_url, beside.dev_api_key) == ("redis://:secret-password@127.0.0.1:1/0", "its-key")
    assert beside.redis_url in beside.secrets
    set_here = load(tmp_path, REDIS_URL="redis://other/0", DEV_API_KEY="other-key")
    assert (set_here.redis_url, set_here.dev_api_key) == ("redis://other/0", "other-key")
    production = load(tmp_path, GATEWAY_ENV="production")
    assert (production.redis_url, production.dev_api_key) == ("redis://127.0.0.1:6379/0", None)
    os.close(held.fd)
    after = load(tmp_path)
    assert (after.redis_url, after.dev_api_key) == ("redis://127.0.0.1:6379/0", "kept-key")


WRONG_FILES = [
    ("providers: [", "line 1: is not valid YAML"),
    ("[]", "the file: "),
    ("models: {}", "providers: field required"),
    (GOOD + "speed: 9\n", "speed: unknown field"),
    (GOOD + "cache: {ttl_s: soon}\n", "cache.ttl_s: input should be a valid integer"),
    (GOOD + "plans: {free: {requests_per_minute: 0}}\n", "plans.free.requests_per_minute: input should be greater"),
    (GOOD + "plans: {free: {budget_usd_per_day: -1}}\n", "plans.free.budget_usd_per_day: input should be greater"),
    (GOOD.replace("provider: demo", "provider: nobody"), "models.demo.targets.0.provider: no provider 'nobody'"),
    (GOOD.replace("}]}", "}], fallbacks: [x]}"), "models.demo.fallbacks.0: 'x' is neither a model nor a provider"),
    (GOOD.replace("kind: demo", "kind: demo, base_url: 'ftp://x'"), "providers.demo.base_url: string should match"),
    (GOOD.replace("kind: demo", 'kind: demo, headers: {"a\\n": b}'), "providers.demo: header"),
    (GOOD.replace("kind: demo", "kind: demo, api_key: '${NOT_SET}'"), "providers.demo.api_key: NOT_SET is not set"),
    (GOOD + "support: {model: none}\n", "support.model: no model 'none'; expected one of: demo"),
    (GOOD + "support: {prompt: ../secret}\n", "support.prompt: string should match pattern"),
    (GOOD + "support: {history_bytes: 1024}\n", "support: history_bytes must be at least 8 times max_message_chars"),
    (GOOD + "smart: {default: x}\n", "smart.default: no model 'x'; expected one of: demo"),
    (GOOD + RULES % "{name: a, model: demo}, {name: b, model: x}", "smart.rules.1.model: no model 'x'; expected one"),
    (GOOD + RULES % "{name: a, model: demo, plans: [default, x]}", "smart.rules.0.plans.1: no plan 'x'; expected one"),
    (GOOD + RULES % "{name: a, model: auto}", "smart.rules.0.model: no model 'auto'; expected one of: demo"),
    (GOOD + RULES % "{name: a, model: demo, has: [sound]}", "smart.rules.0.has.0: input should be 'code', 'tools' or"),
    (GOOD + RULES % "{model: demo}", "smart.rules.0.name: field required"),
    (GOOD + RULES % "{name: 'A b', model: demo}", "smart.rules.0.name: string should match"),
    (GOOD + RULES % "{name: a, model: demo}, {name: a, model: demo}", "smart: two reasons with the name 'a'"),
    (GOOD + RULES % "{name: default, model: demo}", "smart: two reasons with the name 'default'"),
    (GOOD + RULES % "{name: a, model: demo, min_tokens: 5}", "smart.rules.0.min_tokens: unknown field"),
    (GOOD + "optimizer: {keep_messages: 0}\n", "optimizer.keep_messages: input should be greater"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG_FILES)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert error.value.message.startswith(f"{tmp_path}/gateway.yaml: {expected}")
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"PORT": "high"}, "environment: PORT: "),
        ({"WEB_CONCURRENCY": "0"}, "environment: WEB_CONCURRENCY: "),
        ({"GATEWAY_ENV": "prod"}, "environment: GATEWAY_ENV: input should be 'development' or 'production'"),
        ({"LOG_LEVEL": "loud"}, "environment: LOG_LEVEL: "),
        ({"GATEWAY_ENV": "production", "DEV_API_KEY": "x"}, "environment: DEV_API_KEY: only for development"),
        ({"ADMIN_KEY": "a", "ADMIN_KEY_FILE": "/b"}, "environment: ADMIN_KEY and ADMIN_KEY_FILE are both set"),
        ({"ADMIN_KEY": "fifteen-letters"}, "environment: ADMIN_KEY: string should have at least 16 characters"),
        ({"ADMIN_KEY_FILE": "/no/such/file"}, "environment: ADMIN_KEY_FILE: /no/such/file: cannot be read"),
    ],
)
def test_a_wrong_environment_is_one_line(tmp_path: Path, env: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, **env)
    assert error.value.message.startswith(expected)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load_settings({"GATEWAY_CONFIG": str(tmp_path / "nothing.yaml")})


def test_secrets_come_from_the_environment_or_a_file_and_are_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-a-file-123\n")
    text = GOOD.replace("kind: demo", "kind: demo, api_key: '${OPENAI_API_KEY}', headers: {x: '${OTHER:-none}'}")
    settings = load(tmp_path, text, OPENAI_API_KEY_FILE=str(secret), ADMIN_KEY="the-key-of-the-admin")
    provider = settings.config.providers["demo"]
    assert (provider.api_key, provider.headers) == ("from-a-file-123", {"x": "none"})
    assert settings.secrets == {"from-a-file-123", "the-key-of-the-admin"}
    assert "from-a-file" not in repr(settings) + repr(settings.config)
    assert "the-key-of-the-admin" not in repr(settings)


def test_a_secret_may_be_given_twice_if_it_is_the_same(tmp_path: Path) -> None:
    """As docker-compose does: its setup keeps in a file what the environment says."""
    (tmp_path / "secret").write_text("the-key-of-the-admin\n")
    both = {"ADMIN_KEY": "the-key-of-the-admin", "ADMIN_KEY_FILE": str(tmp_path / "secret")}
    assert load(tmp_path, **both).admin_key == "the-key-of-the-admin"
    with pytest.raises(ConfigError, match="both set, and differ"):
        load(tmp_path, **both | {"ADMIN_KEY": "the-key-of-yesterday"})


def test_workers_is_another_name_of_web_concurrency(tmp_path: Path) -> None:
    assert load(tmp_path, WORKERS="3").workers == 3
    assert load(tmp_path, WORKERS="3", WEB_CONCURRENCY="5").workers == 5
    with pytest.raises(ConfigError, match="environment: WEB_CONCURRENCY: "):
        load(tmp_path, WORKERS="many")


def test_an_optional_variable_that_is_unset_is_no_value(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD.replace("kind: demo", "kind: demo, api_key: '${OPENAI_API_KEY:-}'"))
    assert settings.config.providers["demo"].api_key is None


def test_prices_are_checked_too(tmp_path: Path) -> None:
    assert load(tmp_path, prices="demo: {m: {prompt: 0.1}}").prices["demo"]["m"].completion == 0
    with pytest.raises(ConfigError, match=r"prices\.yaml: prices\.demo\.m\.prompt: input should be greater"):
        load(tmp_path, prices="demo: {m: {prompt: -1}}")


def test_the_support_prompt_is_a_file_next_to_the_yaml_or_built_in(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    assert load(tmp_path).support_prompt == ""
    prompts.mkdir()
    (prompts / "support.txt").write_text(" Be kind.\n")
    assert load(tmp_path).support_prompt == "Be kind."
    (prompts / "strict.txt").write_text("Be strict.")
    assert load(tmp_path, GOOD + "support: {prompt: strict.txt}\n").support_prompt == "Be strict."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty; expected the system prompt"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_a_prompt_that_is_named_but_not_there_is_one_line(tmp_path: Path, content: bytes | None, expected: str) -> None:
    prompt = tmp_path / "prompts" / "mine.txt"
    prompt.parent.mkdir()
    if content is not None:
        prompt.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD + "support: {prompt: mine.txt}\n")
    assert error.value.message == f"{tmp_path}/gateway.yaml: support.prompt: {prompt}: {expected}"


def test_the_configuration_in_use_brings_its_prompt(tmp_path: Path) -> None:
    """Workers read the copy that gunicorn's master checked, whatever is being edited."""
    prompt = tmp_path / "prompts" / "support.txt"
    prompt.parent.mkdir()
    prompt.write_text("First.")
    config = tmp_path / "gateway.yaml"
    config.write_text(GOOD)
    env = {"GATEWAY_CONFIG": str(config), "DATA_DIR": str(tmp_path / "data")}
    assert adopt(env)[0].support_prompt == "First."
    prompt.write_text("Second.")
    assert load_settings(env).support_prompt == "First.", "a worker that starts before a reload"
    prompt.write_text("")
    settings, refused = adopt(env)
    assert (settings.support_prompt, refused is None) == ("First.", False)
    prompt.write_text("Third.")
    assert (adopt(env)[0].support_prompt, load_settings(env).support_prompt) == ("Third.", "Third.")
    prompt.unlink()
    assert (adopt(env)[0].support_prompt, load_settings(env).support_prompt) == ("", "")


def test_on_a_full_disk_the_last_good_configuration_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, prices = tmp_path / "gateway.yaml", tmp_path / "prices.yaml"
    config.write_text(GOOD)
    env = {"GATEWAY_CONFIG": str(config), "DATA_DIR": str(tmp_path / "data")}
    prices.write_text('{demo: {"*": {prompt: 1}}}')
    first, refused = adopt(env)
    assert (refused, len(first.prices)) == (None, 1)
    prices.write_text("{}")
    config.write_text(GOOD + "server: {drain_s: 7}\n")
    written: list[Path] = []
    write = Path.write_bytes

    def until_full(path: Path, data: bytes) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    settings, refused = adopt(env)
    assert refused is not None
    assert refused.message == f"{tmp_path}/data/config-in-use: cannot be written: No space left on device"
    assert (settings.config, settings.prices) == (first.config, first.prices)
    assert (load_settings(env).config, load_settings(env).prices) == (first.config, first.prices)
    # A gateway that starts then has nothing to fall back on, and needs nothing.
    settings, refused = adopt(new := {name: env[name] for name in ("GATEWAY_CONFIG", "DATA_DIR")})
    assert refused is not None
    assert settings.config.server.drain_s == load_settings(new).config.server.drain_s == 7


def test_the_file_that_is_shipped_is_right() -> None:
    settings = load_settings({})
    assert settings.support_prompt.startswith("You are ")
    assert set(settings.config.plans) == {"default", "free", "premium"}


def test_the_examples_in_the_file_that_is_shipped_are_right(tmp_path: Path) -> None:
    shipped = Path("config/gateway.yaml").read_text()
    shutil.copytree("config/prompts", tmp_path / "prompts")
    settings = load(tmp_path, re.sub(r"(?m)^# ?(?=(default_model|optimizer):|$)", "", shipped))
    assert settings.config.default_model == "gpt-4.1-mini"
    assert settings.config.optimizer.enabled


@pytest.mark.parametrize(
    ("cpu", "memory", "at_most"),
    [
        ("100000 100000", "max", 1),
        ("50000 100000", "max", 1),
        ("max 100000", str(300 * 1024 * 1024), 1),
        (None, None, 256),
    ],
)
def test_workers_fit_into_what_the_container_may_use(
    tmp_path: Path, cpu: str | None, memory: str | None, at_most: int
) -> None:
    for name, limit in (("cpu.max", cpu), ("memory.max", memory)):
        if limit is not None:
            (tmp_path / name).write_text(limit + "\n")
    assert 1 <= default_worker_count(tmp_path) <= min(at_most, len(os.sched_getaffinity(0)))
