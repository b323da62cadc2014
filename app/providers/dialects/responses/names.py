"""Names of tools in namespaces: one flat name for each, as other dialects have them, and the way back.

A flat name is made of the namespace and the name, has at most 64 characters, and is the same in every request.
"""

from __future__ import annotations

from typing import Any

from app.providers.dialects.tool_ids import IdRule

_RULE = IdRule()


def flat_name(namespace: str, name: str) -> str:
    """Returns the name under which the tool `name` of a namespace is known elsewhere."""
    return _RULE.clean(namespace + ("" if namespace.endswith("__") else "__") + name)


def namespaced_names(tools: object) -> dict[str, tuple[str, str]]:
    """Returns the namespace and name of each flat name in `tools`, the field of a request."""
    names: dict[str, tuple[str, str]] = {}
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("type") == "namespace":
            for inner in tool.get("tools") or ():
                if isinstance(inner, dict) and isinstance(inner.get("name"), str):
                    namespace = str(tool.get("name", ""))
                    names[flat_name(namespace, inner["name"])] = namespace, inner["name"]
    return names


def called_name(item: dict[str, Any]) -> str:
    """Returns the flat name of what a call's item calls."""
    name = str(item.get("name") or "")
    namespace = item.get("namespace")
    return flat_name(namespace, name) if namespace and isinstance(namespace, str) else name
