"""The schema of the sections of `config/gateway.yaml` for the queue, batches and the features built on the gateway."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Literal

from pydantic import Field, field_validator, model_validator

from app.config.section import Count, Name, Seconds, Section


class QueueConfig(Section):
    """The queue of jobs, and their callbacks."""

    max_jobs: int = Field(500, ge=1, le=100_000, description="Jobs that may wait. More are refused: QUEUE_FULL.")
    max_bytes: int = Field(
        134_217_728,
        ge=16_384,
        le=2**40,
        description="What the queue may take of Redis's memory, at most half of its maxmemory: requests until they "
        "have ended, then results until they expire. A key may hold as much as it leaves free: alone half of it, two "
        "keys a third each. Its answers may take three times as much as they leave.",
    )
    max_wait_s: Seconds = Field(3600.0, description="A job that has waited longer fails.")
    result_ttl_s: int = Field(3600, ge=1, le=2_592_000, description="How long a job can be asked for once it ended.")
    max_attempts: int = Field(3, ge=1, le=100, description="How often a job is tried, a worker's death included.")
    retry_backoff_s: float = Field(1.0, ge=0, le=3600, description="Before a job is tried again; doubled each time.")
    lease_s: float = Field(15.0, ge=2, le=600, description="A job is taken from a worker silent for this long.")
    callback_allow: tuple[str, ...] = Field(
        (), description="Host names and networks that callbacks may go to besides public addresses."
    )
    callback_attempts: int = Field(6, ge=1, le=50, description="Deliveries tried, over about a minute and a half.")

    @field_validator("callback_allow")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if "/" in host:
                ip_network(host)
            elif not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
                raise ValueError(f"{host!r} is neither a host name nor a network")
        return hosts


class ReasoningConfig(Section):
    """Reasoning that vendors want to see again in a tool loop, kept for clients that do not send it back."""

    ttl_s: int = Field(3600, ge=60, le=2_592_000, description="How long a tool call's reasoning is kept.")
    max_bytes: int = Field(262_144, ge=1024, le=8_388_608, description="Longer reasoning is not kept.")


class BatchConfig(Section):
    """Files and batches, as OpenAI's Batch API has them."""

    max_file_bytes: int = Field(
        104_857_600, ge=1024, le=2**40, description="Longer files get 413. nginx has its own limit: MAX_FILE."
    )
    max_files_per_key: int = Field(1000, ge=1, le=1_000_000, description="A key's files, results of batches included.")
    max_bytes_per_key: int = Field(
        2_147_483_648, ge=1024, le=2**50, description="… together. Results are kept also beyond it; uploads are not."
    )
    file_ttl_s: int = Field(2_592_000, ge=3600, le=31_536_000, description="How long files, and ended batches, stay.")
    max_lines: int = Field(50_000, ge=1, le=1_000_000, description="Of one batch.")
    max_unfinished_per_key: int = Field(20, ge=1, le=100_000, description="A key's batches that have not ended.")
    window: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Lines of a batch in the queue at once; fewer when there are many batches: they share half of it.",
    )


class ResponsesConfig(Section):
    """Responses that are kept (`store`), so that a later request can go on from them (`previous_response_id`)."""

    ttl_s: int = Field(86_400, ge=60, le=2_592_000, description="A response is forgotten after so long without use.")
    max_response_bytes: int = Field(
        1_048_576,
        ge=1024,
        le=67_108_864,
        description="A longer one, with what its request added to the conversation, is not kept.",
    )
    max_bytes_per_key: int = Field(
        33_554_432, ge=1024, le=2**40, description="What a key's responses may take of Redis; the oldest go first."
    )
    max_bytes: int = Field(134_217_728, ge=1024, le=2**40, description="… and those of all keys together.")


class SupportConfig(Section):
    """The support assistant, `POST /chat`."""

    model: Name | None = Field(None, description="Which model answers; by default the default model.")
    prompt: str | None = Field(
        None,
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="The system prompt: a text file in prompts/, next to this one. By default support.txt if it is "
        "there, else a built-in text.",
    )
    max_tokens: int = Field(150, ge=1, le=1_000_000, description="The longest answer.")
    temperature: float | None = Field(
        0.7, ge=0, le=2, description="At cache.max_temperature and below answers are cached; null sends none."
    )
    max_message_chars: int = Field(4000, ge=1, le=1_000_000, description="Longer messages get 400.")
    history_messages: int = Field(
        20,
        ge=2,
        le=1000,
        description="So many of the latest messages are kept, questions and answers; a pair is never separated.",
    )
    history_bytes: int = Field(
        65_536,
        ge=1024,
        le=16_777_216,
        description="A conversation takes at most so much of Redis; the oldest goes first.",
    )
    history_ttl_s: int = Field(
        86_400, ge=1, le=31_536_000, description="A conversation is forgotten after so long without a message."
    )

    @model_validator(mode="after")
    def _check_a_message_fits(self) -> SupportConfig:
        # JSON writes a character in at most 6 bytes (\u0001); the rest is for the answer.
        if self.history_bytes < 8 * self.max_message_chars:
            raise ValueError("history_bytes must be at least 8 times max_message_chars")
        return self


class SmartRule(Section):
    """A reason to pick a model. Every condition given must hold; a rule without any always does."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64, description="The reason as told in headers and the ledger."
    )
    model: str = Field(
        description="A name from `models`. The rule is skipped while it cannot be served or the key may not use it."
    )
    min_prompt_characters: Count | None = Field(None, description="What users wrote has this many characters, or more.")
    min_prompt_tokens: Count | None = Field(None, description="The prompt is about this long, or longer.")
    max_prompt_tokens: Count | None = Field(None, description="The prompt is about this long, or shorter.")
    min_messages: Count | None = Field(None, description="The conversation has this many messages, or more.")
    max_messages: Count | None = Field(None, description="The conversation has this many messages, or fewer.")
    has: tuple[Literal["code", "tools", "images"], ...] = Field((), description="All of these are in the request.")
    plans: tuple[str, ...] = Field((), description="The key is on one of these plans.")


class SmartConfig(Section):
    """The rules by which `auto` and /chat/smart pick a model, unless `models` has one of the name `auto`."""

    rules: tuple[SmartRule, ...] = Field((), description="In this order; the first that holds decides.")
    default: str | None = Field(None, description="When none holds; by default the default model.")

    @model_validator(mode="after")
    def _check_rule_names(self) -> SmartConfig:
        taken = {"default", "named"}  # the reasons of picks without a rule
        for rule in self.rules:
            if rule.name in taken:
                raise ValueError(f"two reasons with the name {rule.name!r}")
            taken.add(rule.name)
        return self


class OptimizerConfig(Section):
    """The request optimizer, which makes calls cheaper by changing them. Off by default; headers say what it did."""

    enabled: bool = Field(False, description="True: for every chat call.")
    keep_messages: int | None = Field(
        20,
        ge=1,
        le=100_000,
        description="Whole turns are dropped from the oldest on, until this many messages are left. System and "
        "developer messages stay and do not count; the last turn always stays.",
    )
    keep_tokens: Count | None = Field(None, description="… or until what is left is about this many tokens long.")
    small_talk_max_tokens: Count | None = Field(
        256, description="The longest answer to a mere greeting. Reasoning counts as answer."
    )
    small_talk_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="The field that carries that bound to the provider when the caller set none."
    )
