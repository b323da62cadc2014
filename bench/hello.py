"""Yardstick of the benchmark: a bare Flask "hello" under the gateway's own gunicorn settings."""

from flask import Flask

app = Flask(__name__)


@app.route("/v1/chat/completions", methods=["GET", "POST"])
def hello() -> str:
    return "hello"
