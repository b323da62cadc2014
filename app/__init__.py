"""Penstock, a production LLM gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.settings import VERSION as __version__

if TYPE_CHECKING:
    from flask import Flask

    from app.services import Services
    from app.settings import Settings

__all__ = ["__version__", "create_app"]


def create_app(settings: Settings | None = None, services: Services | None = None) -> Flask:
    """The WSGI application: wiring only. Raises `ConfigError` when a setting is missing or wrong."""
    from flask import Flask

    from app import cli
    from app.api import admin, batches, context, cors, debug, errors, fast_path, files, models, ops, support, web
    from app.api.trusted_proxies import TrustedProxies
    from app.services import build_services
    from app.settings import load_settings
    from app.telemetry.logging import configure_logging

    with cli.one_line_errors():
        if services is None:
            settings = settings or load_settings()
            in_production = settings.env == "production"
            configure_logging(settings.log_level, in_production, settings.secrets, fd=2 if cli.is_command() else 1)
            services = build_services(settings)
    app = Flask(__name__, static_folder=None, template_folder="web/templates")
    app.extensions["penstock"] = services
    app.config["MAX_CONTENT_LENGTH"] = services.settings.config.server.max_body_bytes
    app.url_map.strict_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    for prefix in fast_path.PREFIXES:
        for blueprint in (fast_path.bp, models.bp, ops.bp, debug.bp, support.bp, files.bp, batches.bp, admin.bp):
            app.register_blueprint(blueprint, url_prefix=prefix, name=f"{blueprint.name}{prefix.replace('/', '_')}")
    app.register_blueprint(ops.root)
    app.register_blueprint(debug.root)
    app.register_blueprint(web.bp)
    peers = TrustedProxies(services.settings.forwarded_allow_ips)
    context.register(app, peers)
    errors.register(app)
    cli.register(app)
    app.wsgi_app = fast_path.FastPath(services, peers, otherwise=app.wsgi_app)  # type: ignore[method-assign]
    origins = services.settings.config.server.cors_origins
    if origins:
        methods = {method for rule in app.url_map.iter_rules() for method in rule.methods or ()} - {"HEAD", "OPTIONS"}
        app.wsgi_app = cors.Cors(app.wsgi_app, origins, methods=methods)  # type: ignore[method-assign]
    return app
