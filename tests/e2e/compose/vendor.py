"""A vendor, played, with nothing but Python: answers each completion that comes with its key (`vendor.py KEY`)."""

import http.server
import json
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        allowed = self.headers["Authorization"] == f"Bearer {sys.argv[1]}"
        message = {"role": "assistant", "content": f"{asked['model']} answers"}
        answer = {
            "id": "chatcmpl-played",
            "object": "chat.completion",
            "created": 1700000000,
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        refusal = {"error": {"message": "wrong key", "type": "invalid_request_error", "code": "invalid_api_key"}}
        body = json.dumps(answer if allowed else refusal).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler)
print("listening", flush=True)
server.serve_forever()
