"""`flask chat`: asks a model from the terminal, through the running gateway; one question, or a conversation.

A model's text is only ever shown as text: escape sequences and the like are replaced.
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
from app.cli.rendering import terminal_safe
from app.domain.money import format_usd
from app.gateway.pricing import Pricing
from app.runfile import running_gateway
from app.services import Services
from app.stop_signal import StopSignal

if TYPE_CHECKING:
    from app.cli.chat_client import ChatAnswer, ChatClient

_INTERRUPTED_EXIT_CODE = 130  # as shells have it: 128 + SIGINT
_EXIT = "/exit"
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — for a server that listens on every address


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
        question = _read_stdin(found.settings.config.server.max_body_bytes)
    if question is not None and not _text(question).strip():
        raise click.ClickException("There is no question.")
    with one_line_errors():
        from app.cli.chat_client import ChatClient

        client = ChatClient(
            url=url or own_url(found), key=key, model=_text(model), system=_text(system), proxies=bool(url)
        )
        session = _ChatSession(client, found if not url else None, verbose=verbose)
        if question is None:
            session.converse()
        else:
            session.answer_once(_text(question))


def own_url(found: Services) -> str:
    """Returns the URL of the gateway that `make run` has started on this DATA_DIR, unless PORT is set; else that of the
    settings."""
    settings = found.settings
    run = None if "port" in settings.model_fields_set else running_gateway(settings.data_dir)
    host, port = (run.host, run.port) if run is not None and run.port else (settings.host, settings.port)
    host = _LOOPBACK_OF.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class _ChatSession:
    """A conversation on a terminal. `services` are our own gateway's, for its prices; None when another one answers."""

    def __init__(self, client: ChatClient, services: Services | None, *, verbose: bool) -> None:
        self._client = client
        self._services = services
        self._verbose = verbose
        self._at_line_start = True

    def answer_once(self, question: str) -> None:
        try:
            self._ask(question)
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED_EXIT_CODE)

    def converse(self) -> None:
        """Answers questions until `/exit`, Ctrl-D, or Ctrl-C at the prompt. Ctrl-C in an answer stops only that."""
        click.echo(f"{terminal_safe(self._client.model)}. Ctrl-C stops an answer; {_EXIT} or Ctrl-D ends.", err=True)
        while (question := _read_question()) is not None:
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
            with _ctrl_c_noted() as pressed:

                def show(text: str) -> None:
                    if pressed.is_set():
                        raise KeyboardInterrupt
                    self._show(text)

                answer = self._client.ask(question, show)
        finally:
            if not self._at_line_start:
                self._show("\n")
        if self._verbose:
            click.echo(_summary(answer, self._services), err=True)

    def _show(self, text: str) -> None:
        shown = terminal_safe(text)
        encoding = sys.stdout.encoding or "utf-8"
        click.echo(shown.encode(encoding, "replace").decode(encoding), nl=False)
        if shown:
            self._at_line_start = shown.endswith("\n")


@contextmanager
def _ctrl_c_noted() -> Iterator[StopSignal]:
    """Sets the signal at Ctrl-C, besides raising `KeyboardInterrupt` as ever: the exception may get lost.

    It does in a library's compiled code that calls back into Python and drops the exception.
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


def _read_question() -> str | None:
    """Reads a line from the terminal; None when the conversation ends."""
    with suppress(ImportError):  # not every Python has it
        import readline  # noqa: F401 — gives `input` its editing keys and history
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


def _read_stdin(max_bytes: int) -> str:
    data = sys.stdin.buffer.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise click.ClickException(f"The question is longer than {max_bytes} bytes.")
    return data.decode("utf-8", "replace")


def _text(argument: str) -> str:
    """Replaces the surrogates that stand for bytes which are not UTF-8: no JSON can carry them."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _summary(answer: ChatAnswer, services: Services | None) -> str:
    """Returns model, tokens, cost and times in one line."""
    parts = [" by ".join(terminal_safe(name) for name in (answer.model, answer.provider) if name)]
    if answer.reason:
        parts.append(f"picked by {terminal_safe(answer.reason)}")
    if answer.usage is not None:
        parts.append(f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens")
    cost = _cost_nanousd(answer, services)
    if cost is not None:
        parts.append(f"${format_usd(cost)}{' (cached)' if answer.cached else ''}")
    if answer.ttft_s is not None:
        parts.append(f"first text after {answer.ttft_s:.2f} s")
    return " · ".join([part for part in parts if part] + [f"{answer.took_s:.2f} s"])


def _cost_nanousd(answer: ChatAnswer, services: Services | None) -> int | None:
    """Computes the cost from our own prices: a stream's headers leave before its cost is known. None if unknown."""
    if answer.cached:
        return 0
    route = services.router.routes.get(answer.model) if services else None
    if route is None or services is None or answer.usage is None:
        return None
    upstream = next((target.model for target in route.all_targets if target.provider.name == answer.provider), None)
    if upstream is None:
        return None
    pricing = Pricing(config=services.settings.config, overrides=services.settings.prices)
    card = pricing.rate_card(answer.provider, upstream, answer.usage.service_tier)
    return None if card is None else card.cost_nanousd(answer.usage)
