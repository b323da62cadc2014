"""The test client's response with a body that a test may index: `json` has no `None` in its type."""

from __future__ import annotations

from typing import Any

from werkzeug.test import TestResponse


class AppResponse(TestResponse):
    """An answer of the application in this process."""

    @property
    def json(self) -> Any:
        return self.get_json()
