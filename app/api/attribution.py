"""Attribution headers: the session, agent and user that coding agents and chat front ends name in headers of theirs.

Sources: Claude Code's gateway protocol (`x-claude-code-*`), recorded requests of Codex (`session-id`, `thread-id`) and
opencode (`x-session-id`, `x-session-affinity`), and Open WebUI, where it forwards who the user is. The gateway's own
names come first, for programs that have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from app.domain.attribution import NOBODY, Attribution, label

_SESSION = (
    "HTTP_X_PENSTOCK_SESSION",
    "HTTP_X_CLAUDE_CODE_SESSION_ID",
    "HTTP_SESSION_ID",
    "HTTP_X_SESSION_ID",
    "HTTP_X_SESSION_AFFINITY",
    "HTTP_X_OPENWEBUI_CHAT_ID",
)
_OWN_AGENT = "HTTP_X_PENSTOCK_AGENT"
_CLAUDE_CODE_AGENT = "HTTP_X_CLAUDE_CODE_AGENT_ID"
_CLAUDE_CODE_PARENT = "HTTP_X_CLAUDE_CODE_PARENT_AGENT_ID"
_CODEX_THREAD = "HTTP_THREAD_ID"
# The address before the id: a report is read by people.
_USER = (
    "HTTP_X_PENSTOCK_USER",
    "HTTP_X_OPENWEBUI_USER_EMAIL",
    "HTTP_X_OPENWEBUI_USER_ID",
    "HTTP_X_OPENWEBUI_USER_NAME",
)
_ANY = frozenset({*_SESSION, *_USER, _OWN_AGENT, _CLAUDE_CODE_AGENT, _CLAUDE_CODE_PARENT, _CODEX_THREAD})


def stated_in_headers(environ: Mapping[str, Any]) -> Attribution:
    """Returns what the headers of a WSGI environ say of the call."""
    if _ANY.isdisjoint(environ):  # 0.4 µs, as most calls have none
        return NOBODY
    session = _first(environ, _SESSION)
    return Attribution(session, _agent(environ, session), _first(environ, _USER))


def _agent(environ: Mapping[str, Any], session: str) -> str:
    """Returns the agent: `parent/agent` for one that another agent started, "" for the session's main one."""
    own = _first(environ, (_OWN_AGENT,))
    if own:
        return own
    agent, parent = _first(environ, (_CLAUDE_CODE_AGENT,)), _first(environ, (_CLAUDE_CODE_PARENT,))
    if agent or parent:
        return label("/".join(filter(None, (parent, agent))))
    # Codex gives a thread to each agent that a session starts; its main one has the session's id.
    thread = _first(environ, (_CODEX_THREAD,))
    return "" if thread == session else thread


def _first(environ: Mapping[str, Any], names: Iterable[str]) -> str:
    for name in names:
        text = environ.get(name)
        if text:
            return label(_decoded(text))
    return ""


def _decoded(text: str) -> str:
    """Returns a header's text: UTF-8 in what WSGI calls Latin-1, percent-encoded as Open WebUI writes names."""
    try:
        text = text.encode("latin-1").decode()
    except UnicodeError:
        pass
    return unquote(text) if "%" in text else text
