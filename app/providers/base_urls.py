"""Base URLs of vendors: the address of an endpoint, from a `base_url` as the vendor's own SDK takes it.

OpenAI's SDK is given the version with the base URL, Anthropic's and Google's add it themselves. Both are understood:
a base URL that ends in a version keeps it, and one of Google's that names a publisher has it further up (Vertex AI).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

# The version that the vendor's SDK puts behind its base URL.
_VERSIONS = {"anthropic": "/v1", "gemini": "/v1beta"}
_HAS_VERSION = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?(?:/(?:[^/]+/)*publishers/[^/]+)?$")
# Azure's deployments: their models are listed beside them.
_OF_ONE_MODEL = re.compile(r"(?:/deployments)?/[^/]*\{model\}.*$", re.DOTALL)
_NO_QUERY: Mapping[str, str] = {}


def endpoint_url(kind: str, base_url: str, path: str, *, model: str = "", query: Mapping[str, str] = _NO_QUERY) -> str:
    """Returns the URL of `path`, which stands behind the version and may have a query of its own.

    `{model}` in `base_url` is replaced by `model`, the provider's name for it; without a model, by nothing: the URL is
    then one that has no model, such as that of the list of models. `query` is added to the path's own.
    """
    base = base_url.rstrip("/")
    if not _HAS_VERSION.search(base):
        base += _VERSIONS.get(kind, "")
    if "{model}" in base:
        base = base.replace("{model}", quote(model, safe="")) if model else _OF_ONE_MODEL.sub("", base)
    url = base + path
    if not query:
        return url
    return f"{url}{'&' if '?' in path else '?'}{urlencode(query)}"
