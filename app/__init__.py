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
    """Returns the WSGI application: wiring only. Raises `ConfigError` when a setting is missing or wrong."""
    from flask import Flask

    from app import cli
    from app.api import context, cors, errors, routes
    from app.api.fast_path import FastPath
    from app.api.paths import ClientPaths
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
    proxies = TrustedProxies(services.settings.forwarded_allow_ips)
    paths = ClientPaths(routes.client_families(routes.ROUTES))
    routes.register(app, routes.ROUTES)
    context.register(app, proxies)
    errors.register(app, paths.suggestions(rule.rule for rule in app.url_map.iter_rules()))
    cli.register(app)
    app.wsgi_app = FastPath(services, routes.ROUTES, paths, proxies, flask=app.wsgi_app)  # type: ignore[method-assign]
    origins = services.settings.config.server.cors_origins
    if origins:
        methods = {method for rule in app.url_map.iter_rules() for method in rule.methods or ()} - {"HEAD", "OPTIONS"}
        app.wsgi_app = cors.Cors(app.wsgi_app, origins, methods=methods)  # type: ignore[method-assign]
    return app
