"""`flask chat`: ask a model from the terminal, through the running gateway. One question, or a conversation.

A model's text is only ever shown as text: what could steer the terminal is replaced.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import click
from flask.cli import with_appcontext

from app.cli.command import one_line_errors, services
from app.cli.rendering import harmless
from app.domain.money import format_usd
from app.gateway.pricing import Pricing
from app.runfile import running_gateway
from app.services import Services
from app.stop_signal import StopSignal

if TYPE_CHECKING:
    from app.cli.chat_client import ChatAnswer, ChatClient

_INTERRUPTED = 130  # as a shell tells it: 128 + SIGINT
_EXIT = "/exit"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — where to reach what listens everywhere


@click.command("chat")
@with_appcontext
@click.argument("question", required=False)
@click.option("--model", default="", help="By default auto where it is offered, else the first model.")
@click.option("--url", default="", help="The gateway's address up to /v1.  [default: the one that `make run` started]")
@click.option("--key", default="", envvar="PENSTOCK_KEY", help="An API key.  [default: the development key]")
@click.option("--system", default="", help="What the model is told first.")
@click.option("--verbose", is_flag=True, help="Tell tokens, cost and time on standard error.")
def chat(question: str | None, model: str, url: str, key: str, system: str, verbose: bool) -> None:
    """Ask QUESTION, or what comes on standard input; with neither, hold a conversation."""
    found = services()
    key = key or found.settings.dev_api_key or ""
    if not key:
        raise click.ClickException("There is no key: --key or PENSTOCK_KEY")
    if not (key.isascii() and key.isprintable()):
        raise click.ClickException("--key: has characters that no key has")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise click.ClickException(f"--url: expected http://… or https://…, not {url!r}")
    if question is None and not sys.stdin.isatty():
        question = _read(found.settings.config.server.max_body_bytes)
    if question is not None and not _text(question).strip():
        raise click.ClickException("There is no question.")
    with one_line_errors():
        from app.cli.chat_client import ChatClient

        talk = ChatClient(
            url=url or own_url(found), key=key, model=_text(model), system=_text(system), proxies=bool(url)
        )
        screen = _Screen(talk, found if not url else None, verbose=verbose)
        if question is None:
            screen.converse()
        else:
            screen.answer_once(_text(question))


def own_url(found: Services) -> str:
    """Where the settings say, unless a `make run` on the same DATA_DIR says otherwise and PORT does not."""
    settings = found.settings
    run = None if "port" in settings.model_fields_set else running_gateway(settings.data_dir)
    host, port = (run.host, run.port) if run is not None and run.port else (settings.host, settings.port)
    host = _ANYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class _Screen:
    """A talk on a terminal. `priced_by` knows the prices of the gateway that is talked to; None when nobody does."""

    def __init__(self, talk: ChatClient, priced_by: Services | None, *, verbose: bool) -> None:
        self._talk = talk
        self._priced_by = priced_by
        self._verbose = verbose
        self._at_line_start = True

    def answer_once(self, question: str) -> None:
        try:
            self._ask(question)
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)

    def converse(self) -> None:
        """Until `/exit`, Ctrl-D, or Ctrl-C at the prompt. Ctrl-C in an answer stops that answer only."""
        click.echo(f"{harmless(self._talk.model)}. Ctrl-C stops an answer; {_EXIT} or Ctrl-D ends.", err=True)
        while (question := _prompted()) is not None:
            if not question.strip():
                continue
            try:
                self._ask(question)
            except KeyboardInterrupt:
                click.echo("Stopped.", err=True)
            except click.ClickException as exc:
                exc.show()

    def _ask(self, question: str) -> None:
        try:
            with _ctrl_c() as pressed:

                def show(text: str) -> None:
                    if pressed.is_set():
                        raise KeyboardInterrupt
                    self._show(text)

                told = self._talk.ask(question, show)
        finally:
            if not self._at_line_start:
                self._show("\n")
        if self._verbose:
            click.echo(_about(told, self._priced_by), err=True)

    def _show(self, text: str) -> None:
        shown = harmless(text)
        encoding = sys.stdout.encoding or "utf-8"
        click.echo(shown.encode(encoding, "replace").decode(encoding), nl=False)
        if shown:
            self._at_line_start = shown.endswith("\n")


@contextmanager
def _ctrl_c() -> Iterator[StopSignal]:
    """Ctrl-C raises `KeyboardInterrupt` as ever, and is noted: the exception can come up where it gets lost.

    Such as in a library's compiled code that calls back into Python and forgets what that raised.
    """
    pressed = StopSignal()

    def note(_signal: int, _frame: object) -> NoReturn:
        pressed.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _prompted() -> str | None:
    """What the person types; None when that is enough."""
    with suppress(ImportError):  # not every Python has it
        import readline  # noqa: F401 — gives `input` its keys and what was typed before
    try:
        if sys.stdout.isatty():
            line = input("> ")
        else:
            click.echo("> ", nl=False, err=True)
            line = input()
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        return None
    return None if line.strip() == _EXIT else _text(line)


def _read(most_bytes: int) -> str:
    data = sys.stdin.buffer.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise click.ClickException(f"The question is longer than {most_bytes} bytes.")
    return data.decode("utf-8", "replace")


def _text(argument: str) -> str:
    """An argument's bytes that are not UTF-8 come as surrogates, which no JSON can carry."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _about(told: ChatAnswer, priced_by: Services | None) -> str:
    parts = [" by ".join(harmless(name) for name in (told.model, told.provider) if name)]
    if told.reason:
        parts.append(f"picked by {harmless(told.reason)}")
    if told.usage is not None:
        parts.append(f"{told.usage.prompt_tokens} + {told.usage.completion_tokens} tokens")
    cost = _cost(told, priced_by)
    if cost is not None:
        parts.append(f"${format_usd(cost)}{' (cached)' if told.cached else ''}")
    if told.ttft_s is not None:
        parts.append(f"first text after {told.ttft_s:.2f} s")
    return " · ".join([part for part in parts if part] + [f"{told.took_s:.2f} s"])


def _cost(told: ChatAnswer, priced_by: Services | None) -> int | None:
    """By our own prices: a stream's headers leave before its cost is known. None when it cannot be told."""
    if told.cached:
        return 0
    route = priced_by.router.routes.get(told.model) if priced_by else None
    if route is None or priced_by is None or told.usage is None:
        return None
    upstream = next((target.model for target in route.all_targets if target.provider.name == told.provider), None)
    if upstream is None:
        return None
    pricing = Pricing(config=priced_by.settings.config, overrides=priced_by.settings.prices)
    card = pricing.rate_card(told.provider, upstream, told.usage.service_tier)
    return None if card is None else card.cost_nanousd(told.usage)
