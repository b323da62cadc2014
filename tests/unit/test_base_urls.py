"""Base URLs as the vendors' own SDKs take them, and the URLs that calls go to."""

from __future__ import annotations

import pytest

from app.providers.base_urls import endpoint_url

GOOGLE = "https://generativelanguage.googleapis.com"
GENERATE = "/models/m:generateContent"
STREAM = "/models/m:streamGenerateContent?alt=sse"
AZURE = "https://r.openai.azure.com/openai"
VERSION = {"api-version": "2024-10-21"}


@pytest.mark.parametrize(
    ("kind", "base_url", "path", "expected"),
    [
        ("openai", "https://api.openai.com/v1", "/chat/completions", "https://api.openai.com/v1/chat/completions"),
        ("openai", "https://api.openai.com/v1/", "/responses", "https://api.openai.com/v1/responses"),
        ("openai", "https://api.deepseek.com", "/chat/completions", "https://api.deepseek.com/chat/completions"),
        ("openai", f"{GOOGLE}/v1beta/openai", "/embeddings", f"{GOOGLE}/v1beta/openai/embeddings"),
        ("anthropic", "https://api.anthropic.com", "/messages", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/", "/messages", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/v1", "/messages", "https://api.anthropic.com/v1/messages"),
        ("anthropic", "https://api.anthropic.com/v1/", "/messages", "https://api.anthropic.com/v1/messages"),
        (
            "anthropic",
            "https://api.deepseek.com/anthropic",
            "/messages",
            "https://api.deepseek.com/anthropic/v1/messages",
        ),
        # A version that is not at the end is that of the proxy.
        ("anthropic", "https://p.example/v1/a/anthropic", "/messages", "https://p.example/v1/a/anthropic/v1/messages"),
        ("gemini", GOOGLE, GENERATE, f"{GOOGLE}/v1beta{GENERATE}"),
        ("gemini", f"{GOOGLE}/", STREAM, f"{GOOGLE}/v1beta{STREAM}"),
        ("gemini", f"{GOOGLE}/v1beta", STREAM, f"{GOOGLE}/v1beta{STREAM}"),
        ("gemini", f"{GOOGLE}/v1", GENERATE, f"{GOOGLE}/v1{GENERATE}"),
        ("gemini", f"{GOOGLE}/v1alpha/", GENERATE, f"{GOOGLE}/v1alpha{GENERATE}"),
        ("gemini", "https://p.example/v2/x/google", GENERATE, f"https://p.example/v2/x/google/v1beta{GENERATE}"),
        (
            "gemini",
            "https://aiplatform.googleapis.com/v1/publishers/google",
            GENERATE,
            f"https://aiplatform.googleapis.com/v1/publishers/google{GENERATE}",
        ),
        (
            "gemini",
            "https://aiplatform.googleapis.com/v1beta1/projects/p/locations/global/publishers/google",
            GENERATE,
            f"https://aiplatform.googleapis.com/v1beta1/projects/p/locations/global/publishers/google{GENERATE}",
        ),
    ],
)
def test_the_version_is_there_once(kind: str, base_url: str, path: str, expected: str) -> None:
    assert endpoint_url(kind, base_url, path) == expected


@pytest.mark.parametrize(
    ("base_url", "path", "model", "expected"),
    [
        (
            f"{AZURE}/deployments/{{model}}",
            "/chat/completions",
            "gpt 4/o?",
            f"{AZURE}/deployments/gpt%204%2Fo%3F/chat/completions",
        ),
        (f"{AZURE}/deployments/{{model}}/", "/images/edits", "d-1", f"{AZURE}/deployments/d-1/images/edits"),
        (f"{AZURE}/deployments/{{model}}", "/models", "", f"{AZURE}/models"),
        ("https://h/{model}/v1", "/chat/completions", "m", "https://h/m/v1/chat/completions"),
        ("https://h/{model}/v1", "/models", "", "https://h/models"),
        ("https://h/serve-{model}", "/models", "", "https://h/models"),
        ("https://h/v1", "/chat/completions", "m", "https://h/v1/chat/completions"),
    ],
)
def test_the_model_stands_where_the_base_url_has_a_place(base_url: str, path: str, model: str, expected: str) -> None:
    assert endpoint_url("openai", base_url, path, model=model) == expected


def test_a_query_is_added_to_the_one_of_the_path() -> None:
    assert endpoint_url("openai", AZURE, "/models", query=VERSION) == f"{AZURE}/models?api-version=2024-10-21"
    assert endpoint_url("gemini", GOOGLE, STREAM, query={"a": "x&y"}) == f"{GOOGLE}/v1beta{STREAM}&a=x%26y"
    assert endpoint_url("gemini", GOOGLE, STREAM, query={}) == f"{GOOGLE}/v1beta{STREAM}"
