"""The CRD, made from the pydantic models of `api.py`.

    pydantic model ─> JSON schema ─> structural schema (`to_structural`) ─> CRD with CEL rules, columns, status

What a CRD cannot say the same way ($ref, anyOf null, const, numeric exclusiveMinimum, additionalProperties: false) is
rewritten; a keyword that is not known here is refused, so that nothing is dropped in silence.

    python -m runyard.crd            write the CRD where it is committed
    python -m runyard.crd --check    fail with a diff where it is stale
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from runyard_trainer.contract import URI_PATTERN

from runyard.api import GROUP, KIND, PLURAL, VERSION, TrainingRunSpec, TrainingRunStatus
from runyard.crd_rules import build_name_rules, build_rules

Schema = dict[str, Any]

PATHS = ("crds/runyard.dev_trainingruns.yaml", "charts/runyard/crds/runyard.dev_trainingruns.yaml")
"""Where the CRD is committed, below the root of the repository: for kubectl, and for helm."""

COLUMNS = (
    ("Phase", "string", ".status.phase", "What the run is doing"),
    ("Mode", "string", ".status.mode", "Pre-training from scratch, or continued"),
    ("Step", "integer", ".status.progress.step", "Optimizer steps done"),
    ("Loss", "string", ".status.progress.loss", "Training loss, nats per token"),
    ("ETA", "string", ".status.progress.eta", "Time until the last step"),
    ("Attempt", "integer", ".status.attempt", "How often pods were started"),
    ("GPUs", "integer", ".status.gpus", "GPUs of an attempt"),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the run was created"),
)

_KEPT = {
    "type", "description", "default", "enum", "format", "pattern", "required", "items", "properties",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
}  # fmt: skip
_DROPPED = {"title", "$defs"}


class UnsupportedSchemaError(Exception):
    """The models say something that this generator cannot put into a CRD."""


def build_crd() -> dict[str, Any]:
    """The CustomResourceDefinition as plain JSON."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["trun"],
            },
            "versions": [_build_version()],
        },
    }


def _build_version() -> dict[str, Any]:
    columns = [dict(zip(("name", "type", "jsonPath", "description"), column, strict=True)) for column in COLUMNS]
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": _build_root()},
    }


def _build_root() -> Schema:
    spec = _schema_of(TrainingRunSpec)
    status = _schema_of(TrainingRunStatus)
    status["default"] = {"observedGeneration": -1}  # for kstatus, to which an object without status is all right
    status["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    for path, rules in build_rules().items():
        _find(spec, path)["x-kubernetes-validations"] = rules
    return {
        "description": "A model to train: what to learn, from what, on which pods, and where to leave it.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": build_name_rules(),
    }


def _find(schema: Schema, path: str) -> Schema:
    for name in filter(None, path.split(".")):
        schema = schema["properties"][name]
    return schema


# ------------------------------------------------------------------------------------------------- structural schemas


def _schema_of(model: type[BaseModel]) -> Schema:
    schema = model.model_json_schema(by_alias=True)
    return to_structural(schema, schema.get("$defs", {}), model.__name__)


def to_structural(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """A JSON schema of pydantic's as a structural schema.

    Raises:
        UnsupportedSchemaError: for a keyword that is not known here; names the path.
    """
    schema = _resolve(schema, definitions, path)
    structural: Schema = {}
    for keyword, value in schema.items():
        if keyword in _DROPPED:
            continue
        structural |= _rewrite(keyword, value, definitions, path)
    if structural.get("default") is None:
        structural.pop("default", None)
    if "type" not in structural:
        raise UnsupportedSchemaError(f"{path}: no type")
    return structural


def _resolve(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Put what $ref and `anyOf: [X, null]` stand for in their place; what is said beside them wins."""
    if "$ref" in schema:
        beside = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        return _resolve({**definitions[schema["$ref"].rpartition("/")[2]], **beside}, definitions, path)
    if "anyOf" in schema:
        members = [member for member in schema["anyOf"] if member != {"type": "null"}]
        if len(members) != 1:
            raise UnsupportedSchemaError(f"{path}: anyOf of {len(members)} types")
        beside = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
        return _resolve({**members[0], **beside}, definitions, path)
    return schema


def _rewrite(keyword: str, value: Any, definitions: dict[str, Schema], path: str) -> Schema:
    match keyword, value:
        case "properties", dict():
            return {keyword: {name: to_structural(each, definitions, f"{path}.{name}") for name, each in value.items()}}
        case "items", dict():
            return {keyword: to_structural(value, definitions, f"{path}[]")}
        case "additionalProperties", False:
            return {}  # a structural schema prunes what it does not name, and strict clients refuse it
        case "additionalProperties", True:
            return {"x-kubernetes-preserve-unknown-fields": True}
        case "additionalProperties", dict():
            return {keyword: to_structural(value, definitions, f"{path}{{}}")}
        case "const", _:
            return {"enum": [value]}
        case (("exclusiveMinimum" | "exclusiveMaximum"), _):
            return {keyword: True, keyword.removeprefix("exclusive").lower(): value}
        case "default", _:
            return {keyword: _without_nulls(value)}
        case "pattern", _ if value == URI_PATTERN:
            return {keyword: "^s3://.+$"}  # a pod has no files of the person who writes the run
        case _ if keyword in _KEPT:
            return {keyword: value}
    raise UnsupportedSchemaError(f"{path}: a CRD cannot say {keyword}: {value!r}")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return value


# ------------------------------------------------------------------------------------------------------ command line


def render() -> str:
    """The CRD as YAML, the same bytes each time."""
    header = "# Made from operator/runyard/api.py by `make generate`; do not edit.\n"
    return header + yaml.safe_dump(build_crd(), sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Write or check the committed files; returns the exit status."""
    root = Path(__file__).parents[2]
    wanted = render()
    for path in (root / name for name in PATHS):
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted)
            continue
        found = path.read_text() if path.exists() else ""
        if found != wanted:
            diff = difflib.unified_diff(found.splitlines(), wanted.splitlines(), str(path), "generated", lineterm="")
            sys.stdout.write("\n".join([*diff, "The CRD is stale: run `make generate` and commit it.\n"]))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
