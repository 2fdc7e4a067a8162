"""Report a run by MLflow's REST API.

A run is one run of MLflow over all its attempts, found by a tag with its UID. What the server has of it is read when
the run is opened, so that nothing is sent twice: metrics after their newest step, and parameters, which MLflow never
changes, once.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import aiohttp

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Mlflow
from runyard_trainer.services.http import Service, ServiceError, open_service
from runyard_trainer.tracking.scalars import Scalar

Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED"]

UID_TAG = "runyard.runUid"

_METRICS_A_CALL = 1000
_NAMES_A_CALL = 100
_REQUEST_TIMEOUT_S = 20.0
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_CHECK_PATIENCE_S = 180.0
_TOKEN, _NAME, _PASSWORD = "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_T = TypeVar("_T")


@dataclass
class MlflowRun:
    """An open run, and what the server has of it."""

    id: str
    experiment_id: str
    steps: dict[str, int]
    """The newest step of each metric."""
    params: set[str]
    """Names of the parameters that are set."""
    tags: dict[str, str]


@dataclass(frozen=True)
class MlflowClient:
    """An open connection to the server."""

    service: Service
    mlflow: Mlflow
    is_patient: bool
    """Whether requests that only read are repeated where that may help."""

    async def find_experiment(self) -> str | None:
        """Find the id of the recipe's experiment; None where there is none of that name.

        Raises:
            ServiceError: the server cannot be reached or refuses; every method raises it.
        """
        try:
            found = await self._get("experiments/get-by-name", {"experiment_name": self.mlflow.experiment})
        except ServiceError as error:
            if read_error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        experiment = found["experiment"]
        if experiment.get("lifecycle_stage") == "deleted":
            raise ServiceError(f"experiment {self.mlflow.experiment} is deleted: restore it, or name another one")
        return str(experiment["experiment_id"])

    async def open_run(self, uid: str, name: str) -> MlflowRun:
        """Open the run with this UID; create it where there is none."""
        experiment_id = await self.find_experiment() or await self._make_experiment()
        searched = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{UID_TAG}` = '{uid}'",
            "max_results": 1,
            "order_by": ["attributes.start_time ASC"],
        }
        runs = (await self._search(searched)).get("runs", [])
        if runs:
            return _read_run(runs[0])
        tags = [{"key": UID_TAG, "value": uid}]
        made = await self._post(
            "runs/create", {"experiment_id": experiment_id, "run_name": name, "start_time": _now_ms(), "tags": tags}
        )
        return _read_run(made["run"])

    async def _make_experiment(self) -> str:
        try:
            made = await self._post("experiments/create", {"name": self.mlflow.experiment})
        except ServiceError as error:
            if read_error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = await self.find_experiment()  # another run has made it just now
            assert found is not None
            return found
        return str(made["experiment_id"])

    async def describe(self, run: MlflowRun, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Set the tags that differ, and the parameters that are not set."""
        new = [{"key": key, "value": value} for key, value in params.items() if key not in run.params]
        for some in _cut(new, _NAMES_A_CALL):
            await self._post("runs/log-batch", {"run_id": run.id, "params": some})
            run.params.update(each["key"] for each in some)
        changed = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if changed:
            named = [{"key": key, "value": value} for key, value in changed.items()]
            await self._post("runs/log-batch", {"run_id": run.id, "tags": named})
            run.tags.update(changed)

    async def log(self, run: MlflowRun, scalars: Iterable[Scalar]) -> None:
        """Send the values that are newer than what the server has, in order of step."""
        new = sorted((each for each in scalars if each.step > run.steps.get(each.tag, -1)), key=lambda each: each.step)
        for some in _cut(new, _METRICS_A_CALL):
            await self._post("runs/log-batch", {"run_id": run.id, "metrics": [_to_metric(each) for each in some]})
            run.steps.update({each.tag: each.step for each in some})

    async def set_status(self, run: MlflowRun, status: Status) -> None:
        """Set the status of the run, and its end where it has ended."""
        ended = {"end_time": _now_ms()} if status in ("FINISHED", "FAILED") else {}
        await self._post("runs/update", {"run_id": run.id, "status": status, **ended})

    def page_of(self, run: MlflowRun) -> str:
        """Return the URL of the run's page."""
        return f"{self.mlflow.uri.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.id}"

    async def _get(self, path: str, query: Mapping[str, str]) -> Any:
        ask = self.service.ask_patiently if self.is_patient else self.service.ask
        return self._read(path, await ask("GET", self._url(path), query=query))

    async def _search(self, body: dict[str, Any]) -> Any:
        ask = self.service.ask_patiently if self.is_patient else self.service.ask
        return self._read("runs/search", await ask("POST", self._url("runs/search"), body))

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        # once: the server may have acted although its answer was lost, so read what the run has before repeating
        return self._read(path, await self.service.ask("POST", self._url(path), body))

    def _url(self, path: str) -> str:
        return f"{self.mlflow.uri.rstrip('/')}/api/2.0/mlflow/{path}"

    def _read(self, path: str, text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ServiceError(f"what {self._url(path)} answers is not what MLflow would")
        return value


@asynccontextmanager
async def open_mlflow(
    mlflow: Mlflow, credentials: Mapping[str, str], *, is_patient: bool = False
) -> AsyncIterator[MlflowClient]:
    """Open a client that authenticates with these credentials, and keep them out of error messages."""
    authorization = build_authorization(credentials)
    headers = {"Authorization": authorization} if authorization is not None else {}
    secrets = [credentials[name] for name in (_TOKEN, _PASSWORD) if name in credentials]
    if authorization is not None:
        secrets.append(authorization.partition(" ")[2])
    async with open_service(headers, tuple(secrets), _REQUEST_TIMEOUT_S) as service:
        yield MlflowClient(service, mlflow, is_patient)


def build_authorization(credentials: Mapping[str, str]) -> str | None:
    """Build the Authorization header: from a token, else from name and password; None without either."""
    if _TOKEN in credentials:
        return f"Bearer {credentials[_TOKEN]}"
    if _NAME in credentials and _PASSWORD in credentials:
        return aiohttp.encode_basic_auth(credentials[_NAME], credentials[_PASSWORD])
    return None


def check_mlflow(mlflow: Mlflow, credentials: Mapping[str, str]) -> None:
    """Check that the server answers, and knows us: look for the experiment.

    Raises:
        UserError: the server does not answer, or refuses.
    """
    if mlflow.secret_name is not None and build_authorization(credentials) is None:
        raise UserError(
            f"tracking.mlflow.secretName: the environment has neither {_TOKEN} nor {_NAME} and {_PASSWORD}. In a "
            f"cluster they come from Secret {mlflow.secret_name}; elsewhere set them, or remove secretName"
        )
    _ask(mlflow, credentials, MlflowClient.find_experiment)


def schedule_run(mlflow: Mlflow, credentials: Mapping[str, str], uid: str, name: str) -> None:
    """Create the run on the server before it is trained: a check that we may write.

    Raises:
        UserError: the server does not answer, or refuses.
    """

    async def schedule(client: MlflowClient) -> None:
        await client.set_status(await client.open_run(uid, name), "SCHEDULED")

    _ask(mlflow, credentials, schedule)


def _ask(mlflow: Mlflow, credentials: Mapping[str, str], ask: Callable[[MlflowClient], Awaitable[object]]) -> None:
    async def work() -> None:
        async with (
            asyncio.timeout(_CHECK_PATIENCE_S),
            open_mlflow(mlflow, credentials, is_patient=True) as client,
        ):
            await ask(client)

    try:
        asyncio.run(work())
    except (ServiceError, TimeoutError) as error:
        why = str(error) or f"no answer within {_CHECK_PATIENCE_S:.0f} s"
        raise UserError(
            f"tracking.mlflow: {why}. Mend uri, experiment or secretName, start the server, or remove tracking"
        ) from error


def read_error_code(error: ServiceError) -> str | None:
    """Read MLflow's name of the error; None where the answer has none."""
    try:
        code = json.loads(error.body)["error_code"]
    except (ValueError, LookupError, TypeError):
        return None
    return str(code)


def _read_run(run: Any) -> MlflowRun:
    info, data = run["info"], run.get("data", {})
    return MlflowRun(
        id=str(info["run_id"]),
        experiment_id=str(info["experiment_id"]),
        steps={each["key"]: int(each.get("step", 0)) for each in data.get("metrics", [])},
        params={each["key"] for each in data.get("params", [])},
        tags={each["key"]: each["value"] for each in data.get("tags", [])},
    )


def _to_metric(scalar: Scalar) -> dict[str, Any]:
    value = scalar.value if math.isfinite(scalar.value) else _NOT_FINITE[str(scalar.value)]
    return {"key": scalar.tag, "value": value, "step": scalar.step, "timestamp": round(scalar.time_s * 1000)}


def _cut(values: list[_T], size: int) -> Iterator[list[_T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _now_ms() -> int:
    return round(time.time() * 1000)
