"""MLflow's tracking server: a real one, or a small one that speaks the few calls and keeps every value it gets.

Both are asked by the same REST API, so what a test reads of the one it can read of the other.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.ports import free_port
from tests.side_venv import install_beside
from tests.waiting import wait_until

VERSION = "3.17.2"
USERNAME, PASSWORD = "admin", "a-long-password-of-the-test"
CREDENTIALS = {"MLFLOW_TRACKING_USERNAME": USERNAME, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
AUTHORIZATION = "Basic " + b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()

Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class TrackingServer:
    """A running server, read by its API."""

    uri: str

    def run_of(self, uid: str, experiment: str = "runyard") -> dict[str, Any]:
        """Return the one run with this UID."""
        found = self.ask("experiments/get-by-name", {"experiment_name": experiment})["experiment"]
        searched = {"experiment_ids": [found["experiment_id"]], "filter": f"tags.`runyard.runUid` = '{uid}'"}
        (run,) = self.ask("runs/search", body=searched)["runs"]
        return dict(run)

    def read_history(self, uid: str, key: str) -> list[tuple[int, float]]:
        """Read the steps and values of a metric, each as often as it was logged."""
        query = {"run_id": self.run_of(uid)["info"]["run_id"], "metric_key": key}
        return [(int(each["step"]), each["value"]) for each in self.ask("metrics/get-history", query)["metrics"]]

    def ask(self, path: str, query: dict[str, str] | None = None, body: object = None, version: str = "2.0") -> Any:
        request = urllib.request.Request(
            f"{self.uri}/api/{version}/mlflow/{path}" + (f"?{urlencode(query)}" if query else ""),
            None if body is None else json.dumps(body).encode(),
            {"Authorization": AUTHORIZATION, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)


# ------------------------------------------------------------------------------------------------------------ small one


@dataclass(frozen=True)
class SmallServer(TrackingServer):
    """The small server, which a test may disturb."""

    state: State


@dataclass
class State:
    """What the small server holds; metrics are only ever added, as in MLflow's file store."""

    experiments: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    lost_answers: int = 0
    """So many of the next batches of metrics are taken, and answered with 503."""
    early_lookups: int = 0
    """So many of the next look-ups come just before the experiment is made."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, given: dict[str, Any]) -> Answer:
        with self.lock:
            return _CALLS[path](self, given)

    def get_experiment(self, given: dict[str, Any]) -> Answer:
        name = given["experiment_name"]
        if name not in self.experiments or self.early_lookups:
            self.early_lookups = max(0, self.early_lookups - 1)
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no experiment {name}"}
        found = {"experiment_id": str(self.experiments.index(name)), "name": name, "lifecycle_stage": "active"}
        return 200, {"experiment": found}

    def create_experiment(self, given: dict[str, Any]) -> Answer:
        if given["name"] in self.experiments:
            return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "there is one"}
        self.experiments.append(given["name"])
        return 200, {"experiment_id": str(len(self.experiments) - 1)}

    def create_run(self, given: dict[str, Any]) -> Answer:
        info = {"run_id": f"run-{len(self.runs)}", "experiment_id": given["experiment_id"], "status": "RUNNING"}
        info["run_name"] = given["run_name"]
        self.runs.append({"info": info, "data": {"metrics": [], "params": [], "tags": given["tags"]}})
        return 200, {"run": self.runs[-1]}

    def search_runs(self, given: dict[str, Any]) -> Answer:
        match = re.fullmatch(r"tags\.`(.+)` = '(.+)'", given["filter"])
        assert match is not None, given
        tag = {"key": match[1], "value": match[2]}
        found = [run for run in self.runs if tag in run["data"]["tags"]]
        return 200, {"runs": [{**run, "data": {**run["data"], "metrics": newest_of(run)}} for run in found]}

    def update_run(self, given: dict[str, Any]) -> Answer:
        info = self._find(given)["info"]
        info |= {name: given[name] for name in ("status", "end_time") if name in given}
        return 200, {"run_info": info}

    def log_batch(self, given: dict[str, Any]) -> Answer:
        data = self._find(given)["data"]
        metrics, params = given.get("metrics", []), given.get("params", [])
        assert len(metrics) <= 1000
        assert len(params) <= 100
        assert all(len(each["value"]) <= 500 and each not in data["params"] for each in params)
        data["metrics"] += metrics
        data["params"] += params
        for tag in given.get("tags", []):
            data["tags"] = [each for each in data["tags"] if each["key"] != tag["key"]] + [tag]
        if metrics and self.lost_answers:
            self.lost_answers -= 1
            return 503, {"message": "try again"}
        return 200, {}

    def get_history(self, given: dict[str, Any]) -> Answer:
        told = [each for each in self._find(given)["data"]["metrics"] if each["key"] == given["metric_key"]]
        return 200, {"metrics": told}

    def _find(self, given: dict[str, Any]) -> dict[str, Any]:
        return next(run for run in self.runs if run["info"]["run_id"] == given["run_id"])


_CALLS: dict[str, Callable[[State, dict[str, Any]], Answer]] = {
    "experiments/get-by-name": State.get_experiment,
    "experiments/create": State.create_experiment,
    "runs/create": State.create_run,
    "runs/search": State.search_runs,
    "runs/update": State.update_run,
    "runs/log-batch": State.log_batch,
    "metrics/get-history": State.get_history,
}


def newest_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    newest: dict[str, dict[str, Any]] = {}
    for each in run["data"]["metrics"]:
        if each["key"] not in newest or newest[each["key"]]["step"] <= each["step"]:
            newest[each["key"]] = each
    return list(newest.values())


@contextmanager
def running_small_server() -> Iterator[SmallServer]:
    state = State()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(dict(parse_qsl(urlsplit(self.path).query)))

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, given: dict[str, Any]) -> None:
            path = urlsplit(self.path).path.removeprefix("/api/2.0/mlflow/")
            told = self.headers.get("Authorization")
            status, value = (
                state.answer(path, given) if told == AUTHORIZATION else (401, {"message": f"who is {told}?"})
            )
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield SmallServer(f"http://127.0.0.1:{server.server_address[1]}", state)
        server.shutdown()


# ------------------------------------------------------------------------------------------------------------- real one


@contextmanager
def running_real_server(folder: Path) -> Iterator[TrackingServer]:
    """Run MLflow's own server, with its accounts."""
    python = install_beside("mlflow", "mlflow[auth]", VERSION)
    port = free_port()
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
        f"admin_username = {USERNAME}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    command = [python, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/runs.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-test"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, 300)
        yield TrackingServer(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
