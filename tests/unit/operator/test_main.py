"""The pure parts of the operator's I/O: patches, errors as text, Events, the environment, log lines, who is asked."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runyard.cluster.events import build_event, subject_of
from runyard.cluster.objects import merge_patch, parse_run
from runyard.cluster.progress import find_rank_0
from runyard.decide.values import Event
from runyard.main import read_config
from runyard.serving.logs import JsonFormatter, OneLineFormatter
from runyard_trainer.contract.exits import UserError

SPEC = {
    "model": {"uri": "s3://models/base"},
    "data": {"train": [{"uri": "s3://corpora/text/"}]},
    "output": {"uri": "s3://models/out"},
    "compute": {"nodes": 1},
}

JSON_VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
JSON_OBJECTS = st.dictionaries(st.sampled_from("abcd"), JSON_VALUES, max_size=4)
ON_A_BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def build_manifest(spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "lab", "name": "cpt", "uid": "u-1", "generation": 3, "resourceVersion": "77"}
    return {"metadata": metadata, "spec": spec, "status": status}


def build_pod(attempt: int, index: int, *, phase: str = "Running", ip: str | None = "10.0.0.1") -> dict[str, Any]:
    labels = {
        "runyard.dev/role": "train",
        "runyard.dev/attempt": str(attempt),
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    return {
        "metadata": {"name": f"a{attempt}-{index}", "labels": labels},
        "status": {"phase": phase} | ({"podIP": ip} if ip else {}),
    }


def apply_merge_patch(old: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply_merge_patch(result.get(name), value)
    return result


@ON_A_BUSY_MACHINE
@given(old=JSON_OBJECTS, new=JSON_OBJECTS)
def test_a_merge_patch_makes_the_new_status_of_the_old_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert apply_merge_patch(old, merge_patch(old, new)) == new


@ON_A_BUSY_MACHINE
@given(status=JSON_OBJECTS)
def test_what_does_not_differ_makes_an_empty_patch(status: dict[str, Any]) -> None:
    assert merge_patch(status, status) == {}


def test_a_spec_that_validates_is_parsed_with_its_status() -> None:
    run = parse_run(build_manifest(SPEC, attempt=2))
    assert run.spec is not None
    assert run.spec.model.uri == "s3://models/base"
    assert (run.status.attempt, run.generation, run.deleting, run.spec_error) == (2, 3, False, None)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"compute": {"nodes": 0}}, "spec.compute.nodes: Input should be greater than or equal to 1"),
        ({"data": {"train": [{"uri": "x"}]}}, "spec.data.train[0].uri: String should have at least 6 characters"),
        ({"surprise": 1}, "spec.surprise: Extra inputs are not permitted"),
        ({"model": {}}, "spec.model: model needs exactly one of uri, run, scratch"),
    ],
)
def test_a_spec_that_does_not_validate_is_an_error_that_names_the_field(change: dict[str, Any], want: str) -> None:
    run = parse_run(build_manifest(SPEC | change))
    assert run.spec is None
    assert run.spec_error == want


def test_an_event_names_its_run_and_the_same_words_make_the_same_event() -> None:
    run = parse_run(build_manifest(SPEC))
    event = Event("Warning", "AttemptFailed", "x" * 2000)
    now = datetime(2026, 1, 31, tzinfo=UTC)
    manifest = build_event(subject_of(run), "attempt 1", event, "pod-1", now)
    again = build_event(subject_of(run), "attempt 1", event, "pod-2", datetime.now(UTC))
    of_next_attempt = build_event(subject_of(run), "attempt 2", event, "pod-1", now)
    assert manifest["regarding"]["uid"] == "u-1"
    assert len(manifest["note"]) == 1024
    assert manifest["metadata"]["name"] == again["metadata"]["name"] != of_next_attempt["metadata"]["name"]


@pytest.mark.parametrize(
    ("pods", "want"),
    [
        ([build_pod(1, 1), build_pod(1, 0)], "a1-0"),
        ([build_pod(1, 0), build_pod(2, 0), build_pod(2, 1)], "a2-0"),
        ([build_pod(9, 0), build_pod(10, 0)], "a10-0"),
        ([build_pod(1, 0), build_pod(2, 0, phase="Pending", ip=None)], None),
        ([build_pod(1, 0, phase="Failed")], None),
        ([], None),
    ],
)
def test_progress_is_asked_of_the_running_rank_0_of_the_newest_attempt(
    pods: list[dict[str, Any]], want: str | None
) -> None:
    found = find_rank_0(pods)
    assert (found and found["metadata"]["name"]) == want


def test_the_environment_becomes_settings() -> None:
    config = read_config(
        {
            "RUNYARD_TRAINER_IMAGE": "trainer:1",
            "RUNYARD_STORAGE_ENDPOINT": "",
            "RUNYARD_STORAGE_ADDRESSING": "path",
            "RUNYARD_PREPARE_CPU": "500m",
            "RUNYARD_PREPARE_MEMORY": "",
            "RUNYARD_NAMESPACES": "a, b",
            "POD_NAME": "op-1",
            "POD_NAMESPACE": "system",
            "RUNYARD_PROGRESS_INTERVAL_SECONDS": "1.5",
        }
    )
    assert (config.settings.trainer_image, config.settings.storage_addressing) == ("trainer:1", "path")
    assert config.settings.storage_endpoint is None
    assert (config.settings.prepare_cpu, config.settings.prepare_memory) == ("500m", "4Gi")
    assert config.namespaces == ("a", "b")
    assert (config.lease.namespace, config.lease.identity) == ("system", "op-1")
    assert config.settings.progress_interval_s == 1.5


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({}, "RUNYARD_TRAINER_IMAGE is not set"),
        ({"RUNYARD_TRAINER_IMAGE": "x", "RUNYARD_PROBE_PORT": "http"}, "RUNYARD_PROBE_PORT is 'http'"),
        ({"RUNYARD_TRAINER_IMAGE": "x", "RUNYARD_STORAGE_ADDRESSING": "dns"}, "RUNYARD_STORAGE_ADDRESSING is 'dns'"),
    ],
)
def test_a_bad_environment_is_an_error_that_names_the_variable(environment: dict[str, str], want: str) -> None:
    with pytest.raises(UserError, match=want):
        read_config(environment)


def build_record() -> logging.LogRecord:
    try:
        int("broken")
    except ValueError:
        return logging.LogRecord("runyard", logging.WARNING, "", 1, "of %s", ("two\nlines",), sys.exc_info())
    raise AssertionError("a word is no number")


def test_a_log_record_is_one_line_even_with_a_traceback() -> None:
    line = OneLineFormatter().format(build_record())
    assert "\n" not in line
    assert "WARNING runyard of two\\nlines" in line
    assert "ValueError: invalid literal" in line


def test_a_log_record_of_text_holds_nothing_that_speaks_to_a_terminal() -> None:
    said = "red \x1b[31m, back \r, bell \x07, \x9b and ü"
    line = OneLineFormatter().format(logging.LogRecord("runyard", logging.INFO, "", 1, said, (), None))
    assert line.endswith(r"red \x1b[31m, back \r, bell \x07, \x9b and ü")


def test_a_log_record_can_be_a_json_object() -> None:
    fields = json.loads(JsonFormatter().format(build_record()))
    assert (fields["level"], fields["message"]) == ("WARNING", "of two\nlines")
    assert fields["traceback"].splitlines()[-1].startswith("ValueError")


def test_the_operator_starts_with_nothing_installed_but_its_own_extra() -> None:
    not_of_the_operator = ["torch", "transformers", "boto3", "numpy", "typer", "rich", "cryptography", "psutil"]
    program = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {not_of_the_operator!r}:
            raise ImportError(name + " is not in the operator's image")

sys.meta_path.insert(0, Refuse())
import runyard.main
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
