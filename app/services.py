"""Composition root: builds the objects of a process and connects them. No Flask, no globals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from app.errors import ConfigError, StoreUnavailable
from app.features.responses import ResponsesService
from app.features.support import SupportAssistant
from app.gateway.accounting import Accounting
from app.gateway.admission import Admission
from app.gateway.cache import Cache
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.model_facts import ModelFacts
from app.gateway.pipeline import Pipeline
from app.gateway.pricing import Pricing
from app.gateway.provider_health import ProviderHealth
from app.gateway.reaper import Reaper
from app.gateway.router import Router
from app.gateway.token_counter import TokenCounter
from app.jobs.callbacks import CallbackSender
from app.jobs.queue import JobQueue
from app.providers import KINDS
from app.providers.base import Provider
from app.providers.dialects import decode_request
from app.providers.dialects.responses.signatures import owned_item
from app.providers.reasoning import ReasoningMemory
from app.settings import Settings
from app.store.batches import Batches
from app.store.files import Files
from app.store.history import History
from app.store.installation import Installation
from app.store.keys import Keys
from app.store.ledger import Ledger
from app.store.outbox import Outbox
from app.store.reasoning import Reasoning
from app.store.redelivery import Redelivery
from app.store.redis.client import Redis
from app.store.responses import Responses
from app.store.spool import Spool
from app.store.sql.database import Database
from app.telemetry.metrics import Metrics
from app.telemetry.system import System

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The objects that views, commands and jobs may call."""

    settings: Settings
    metrics: Metrics
    redis: Redis
    database: Database
    installation: Installation
    keys: Keys
    ledger: Ledger
    outbox: Outbox
    spool: Spool
    reaper: Reaper
    callers: Callers
    providers: Mapping[str, Provider]
    provider_health: ProviderHealth
    system: System
    router: Router
    admission: Admission
    heartbeat: Heartbeat
    pipeline: Pipeline
    pricing: Pricing
    model_facts: ModelFacts
    token_counter: TokenCounter
    queue: JobQueue
    callbacks: CallbackSender
    responses: ResponsesService
    support: SupportAssistant
    files: Files
    batches: Batches

    def close(self) -> None:
        self.heartbeat.stop()
        self.redis.close()
        self.database.close()


def build_services(settings: Settings) -> Services:
    """Builds a process's services. Connects to nothing; raises `ConfigError`."""
    config = settings.config
    metrics = Metrics(config=config)
    redis = Redis(settings.redis_url)
    database = Database(settings.database_url)
    keys = Keys(database=database, redis=redis)
    ledger = Ledger(database=database)
    outbox = Outbox(redis=redis, ledger=ledger)
    callers = Callers(keys=keys, dev_key=settings.dev_api_key, admin_key=settings.admin_key)
    heartbeat = Heartbeat(redis=redis, timeout_s=config.reserve.worker_timeout_s)
    spool = Spool(
        settings.data_dir / "spool",
        name=heartbeat.worker_id,
        never_ran=Redelivery(redis=redis, outbox=outbox).never_ran,
        count_held=metrics.add_settlements_held,
        count_dropped=metrics.count_settlements_dropped,
    )
    admission = Admission(redis=redis, callers=callers, plans=config.plans, heartbeat=heartbeat, spool=spool)
    reasoning = Reasoning(redis=redis, ttl_s=config.reasoning.ttl_s, max_bytes=config.reasoning.max_bytes)
    providers = _providers(settings, ReasoningMemory(reasoning.recall, reasoning.remember))
    router = Router(config=config, providers=providers, metrics=metrics)
    pricing = Pricing(config=config, overrides=settings.prices)
    pipeline = _pipeline(settings, admission, router, redis, metrics, pricing)
    return Services(
        settings=settings,
        metrics=metrics,
        redis=redis,
        database=database,
        keys=keys,
        ledger=ledger,
        installation=Installation(database=database, redis=redis, data_dir=settings.data_dir),
        outbox=outbox,
        spool=spool,
        callers=callers,
        providers=providers,
        router=router,
        provider_health=ProviderHealth(config=config, providers=providers),
        system=System(data_dir=settings.data_dir),
        reaper=Reaper(redis=redis, timeout_s=config.reserve.worker_timeout_s),
        admission=admission,
        heartbeat=heartbeat,
        pipeline=pipeline,
        pricing=pricing,
        model_facts=ModelFacts(config=config, pricing=pricing),
        token_counter=TokenCounter(pipeline=pipeline, router=router, admission=admission, decode=decode_request),
        queue=JobQueue(config=config, redis=redis, pipeline=pipeline, admission=admission, heartbeat=heartbeat),
        callbacks=CallbackSender(secret=settings.callback_secret, allow=config.queue.callback_allow),
        responses=build_responses(settings, pipeline, redis),
        support=build_support(settings, pipeline, redis),
        files=Files(database=database, directory=settings.data_dir / "files", config=config.batch),
        batches=Batches(database=database, config=config.batch),
    )


def _pipeline(
    settings: Settings, admission: Admission, router: Router, redis: Redis, metrics: Metrics, pricing: Pricing
) -> Pipeline:
    config = settings.config
    return Pipeline(
        config=config,
        admission=admission,
        router=router,
        cache=Cache(redis=redis, config=config.cache),
        pricing=pricing,
        accounting=Accounting(admission=admission, pricing=pricing, metrics=metrics),
        metrics=metrics,
        decode=decode_request,
    )


def check_installation(settings: Settings) -> None:
    """Runs `Installation.check` before a server forks. Raises `ConfigError`; an unavailable store is skipped."""
    database, redis = Database(settings.database_url), Redis(settings.redis_url, shared=False)
    try:
        Installation(database=database, redis=redis, data_dir=settings.data_dir).check()
    except StoreUnavailable as exc:
        log.warning("installation_unchecked", reason=exc.message)
    finally:
        database.close()
        redis.close()


def build_support(settings: Settings, pipeline: Pipeline, redis: Redis) -> SupportAssistant:
    """Builds the support assistant."""
    config = settings.config.support
    history = History(
        redis=redis, max_turns=config.history_messages // 2, max_bytes=config.history_bytes, ttl_s=config.history_ttl_s
    )
    return SupportAssistant(pipeline=pipeline, history=history, config=config, prompt=settings.support_prompt)


def build_responses(settings: Settings, pipeline: Pipeline, redis: Redis) -> ResponsesService:
    """Builds the Responses API."""
    config = settings.config.responses
    responses = Responses(
        redis=redis,
        ttl_s=config.ttl_s,
        max_response_bytes=config.max_response_bytes,
        max_bytes_per_key=config.max_bytes_per_key,
        max_bytes=config.max_bytes,
    )
    max_input_bytes = settings.config.server.max_body_bytes
    return ResponsesService(
        pipeline=pipeline, responses=responses, owned_item=owned_item, max_input_bytes=max_input_bytes
    )


def _providers(settings: Settings, memory: ReasoningMemory) -> dict[str, Provider]:
    config, file = settings.config, settings.config_path
    built: dict[str, Provider] = {}
    for name, provider in config.providers.items():
        kind = KINDS.get(provider.kind)
        if kind is None:
            raise ConfigError(f"{file}: providers.{name}.kind: expected one of: {', '.join(sorted(KINDS))}")
        try:
            built[name] = kind(
                name=name,
                config=provider,
                timeouts=provider.timeouts or config.timeouts,
                heartbeat_s=config.server.heartbeat_s,
                secrets=settings.secrets,
                memory=memory,
            )
        except ConfigError as exc:
            raise ConfigError(f"{file}: providers.{name}.{exc.message}") from None
    return built
