"""A server that speaks OpenAI's chat protocol, in a process of its own: `python -m tests.judge_server KEY`.

It prints its port, and a line of JSON for each request. What it answers, the model's name says:

    longest    the longer answer is better             first      answer A is, whatever it is
    busy       429 at first, with Retry-After          silent     a text without a verdict
    html       a page                                  elsewhere  a redirect
    failing    500, but to a single message            null       a message without a text
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = re.compile(r"\[The start of answer (?:A|B)\]\n(.*?)\n\[The end of answer (?:A|B)\]", re.DOTALL)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    key = ""
    lock = threading.Lock()
    seen: set[str] = set()  # noqa: RUF012 - of the one server of this process

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        with self.lock:  # a line at a time
            print(json.dumps({"path": self.path, **request}), flush=True)
        if self.headers.get("Authorization") != f"Bearer {self.key}":
            given = self.headers.get("Authorization")
            self._answer(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        elif self.path != "/v1/chat/completions":
            self._answer(404, {"error": {"message": "no such path"}})
        else:
            self._judge(request["model"], request["messages"], body.decode())

    def _judge(self, model: str, messages: list[dict[str, str]], body: str) -> None:
        if model == "busy" and body not in self.seen:
            self.seen.add(body)
            self._answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
        elif model == "failing" and len(messages) > 1:
            self._answer(500, {"error": {"message": "out of memory"}}, {"Retry-After": "0"})
        elif model == "elsewhere":
            self._answer(307, {}, {"Location": f"http://127.0.0.1:{self.server.server_address[1]}/other"})
        elif model == "html":
            self._send(200, b"<html>welcome</html>", {})
        else:
            self._answer(200, {"choices": [{"message": {"role": "assistant", "content": reply_of(model, messages)}}]})

    def _answer(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers or {})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


def reply_of(model: str, messages: list[dict[str, str]]) -> str | None:
    answers = ANSWERS.findall(messages[-1]["content"])
    if model == "null":
        return None
    if len(answers) < 2 or model == "silent":
        return "ready"
    if model == "first":
        return "Not [[B]], no: [[A]]"
    first, second = map(len, answers)
    return "Longer: " + ("[[C]]" if first == second else "[[A]]" if first > second else "[[B]]")


@dataclass
class JudgeServer:
    """A running server."""

    endpoint: str
    process: subprocess.Popen[str]

    def stop(self) -> list[dict[str, Any]]:
        """End it, and return what it was asked."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=30)
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def running_judge(key: str) -> Iterator[JudgeServer]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.judge_server", key], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield JudgeServer(f"http://127.0.0.1:{port}/v1", process)
        finally:
            process.kill()


def main(key: str) -> None:
    Handler.key = key
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
