"""The yardstick: a bare Flask "hello" under the gateway's own gunicorn settings."""

from flask import Flask

app = Flask(__name__)


@app.post("/v1/chat/completions")
def hello() -> str:
    return "hello"
