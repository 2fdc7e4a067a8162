"""Make the CRDs from the pydantic models in `api.trainingrun` and `api.gpubudget`.

    pydantic model ─> JSON schema ─> structural schema (`to_structural`) ─> CRD with CEL rules, columns, status

What a CRD cannot say the same way ($ref, anyOf null, const, numeric exclusiveMinimum, additionalProperties: false) is
rewritten. Any other keyword that is not known here raises an error, so that nothing is dropped in silence.

    python -m runyard.api.crd.generate            write the CRDs where they are committed
    python -m runyard.api.crd.generate --check    fail with a diff where one is stale
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from runyard_trainer.contract.base import URI_PATTERN, Model
from runyard_trainer.contract.models import MAX_CONFIG_DEPTH, MAX_CONFIG_ENTRIES, MAX_CONFIG_TEXT_LENGTH

from runyard.api.crd.rules import Rule, build_change_rules, build_cross_rules, build_root_rules
from runyard.api.gpubudget import BUDGET_KIND, BUDGET_PLURAL, MAX_BUDGET_NAME_LENGTH, GPUBudgetSpec, GPUBudgetStatus
from runyard.api.trainingrun import GROUP, KIND, PLURAL, VERSION, TrainingRunSpec, TrainingRunStatus

Schema = dict[str, Any]

Column = tuple[str, str, str, str]
"""Name, type, JSON path, description."""


@dataclass(frozen=True)
class Resource:
    """A kind that the operator serves: its models, and the parts of its CRD that do not follow from them."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    description: str
    spec: type[Model]
    status: type[BaseModel]
    change_rules: dict[str, list[Rule]]
    """CEL on how the spec may change, by the path below spec that it stands on."""
    root_rules: list[Rule]
    """CEL on metadata.name, and on the spec as the status allows it."""
    columns: tuple[Column, ...]

    @property
    def paths(self) -> tuple[str, str]:
        """Return where the CRD is committed, below the root of the repository: for kubectl, and for helm."""
        name = f"crds/{GROUP}_{self.plural}.yaml"
        return name, f"charts/runyard/{name}"


TRAINING_RUN = Resource(
    kind=KIND,
    plural=PLURAL,
    short_names=("trun",),
    scope="Namespaced",
    description="A model to train: what to learn, from what, on which pods, and where to leave it.",
    spec=TrainingRunSpec,
    status=TrainingRunStatus,
    change_rules=build_change_rules(),
    root_rules=build_root_rules(),
    columns=(
        ("Phase", "string", ".status.phase", "What the run is doing"),
        ("Mode", "string", ".status.mode", "Pre-training from scratch, or continued"),
        ("Step", "integer", ".status.progress.step", "Optimizer steps done"),
        ("Loss", "string", ".status.progress.loss", "Training loss, nats per token"),
        ("ETA", "string", ".status.progress.eta", "Time until the last step"),
        ("Attempt", "integer", ".status.attempt", "How often pods were started"),
        ("GPUs", "integer", ".status.gpus", "GPUs of an attempt"),
        ("Age", "date", ".metadata.creationTimestamp", "Time since the run was created"),
    ),
)
GPU_BUDGET = Resource(
    kind=BUDGET_KIND,
    plural=BUDGET_PLURAL,
    short_names=("gbud",),
    scope="Cluster",
    description="GPU-hours that the runs of some namespaces may take in a while.",
    spec=GPUBudgetSpec,
    status=GPUBudgetStatus,
    change_rules={},
    root_rules=[
        {
            "rule": f"self.metadata.name.size() <= {MAX_BUDGET_NAME_LENGTH}",
            "message": f"metadata.name may have at most {MAX_BUDGET_NAME_LENGTH} characters: the name of the budget's "
            "ledger is made from it; choose a shorter one",
        }
    ],
    columns=(
        ("Used", "string", ".status.used", "GPU-hours in the window"),
        ("Hours", "number", ".spec.gpuHours", "GPU-hours that may be used in the window"),
        ("Days", "integer", ".spec.windowDays", "The window"),
        ("Action", "string", ".spec.action", "What follows when it is used up"),
        ("Exceeded", "string", '.status.conditions[?(@.type=="Exceeded")].status', "Whether it is used up"),
        ("Age", "date", ".metadata.creationTimestamp", "Time since the budget was created"),
    ),
)
RESOURCES = (TRAINING_RUN, GPU_BUDGET)

_KEPT = {
    "type", "description", "default", "enum", "format", "pattern", "required", "items", "properties",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
}  # fmt: skip
_DROPPED = {"title", "$defs"}


class UnsupportedSchemaError(Exception):
    """A keyword in the models' JSON schema that this generator cannot put into a CRD."""


def build_crd(resource: Resource = TRAINING_RUN) -> dict[str, Any]:
    """Return the CustomResourceDefinition as plain JSON."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": resource.scope,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": list(resource.short_names),
            },
            "versions": [_build_version(resource)],
        },
    }


def _build_version(resource: Resource) -> dict[str, Any]:
    names = ("name", "type", "jsonPath", "description")
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [dict(zip(names, column, strict=True)) for column in resource.columns],
        "schema": {"openAPIV3Schema": _build_root(resource)},
    }


def _build_root(resource: Resource) -> Schema:
    spec, status = _schema_of(resource.spec), _schema_of(resource.status)
    status["default"] = {"observedGeneration": -1}  # for kstatus, to which an object without status is all right
    status["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    cross_rules = build_cross_rules(resource.spec)
    for path in {**resource.change_rules, **cross_rules}:
        rules = [*resource.change_rules.get(path, []), *cross_rules.get(path, [])]
        _find(spec, path)["x-kubernetes-validations"] = rules
    return {
        "description": resource.description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": resource.root_rules,
    }


def _find(schema: Schema, path: str) -> Schema:
    for name in filter(None, path.split(".")):
        schema = schema["properties"][name.removesuffix("[]")]
        schema = schema["items"] if name.endswith("[]") else schema
    return schema


# ------------------------------------------------------------------------------------------------- structural schemas


def _schema_of(model: type[BaseModel]) -> Schema:
    schema = model.model_json_schema(by_alias=True)
    return to_structural(schema, schema.get("$defs", {}), model.__name__)


def to_structural(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """Return pydantic's JSON schema as a structural schema.

    Raises:
        UnsupportedSchemaError: a keyword is not known here; the message names the path.
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
    """Replace $ref and `anyOf: [X, null]` by what they stand for; keywords beside them win."""
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
            return {"maxProperties": MAX_CONFIG_ENTRIES, keyword: _build_any(MAX_CONFIG_DEPTH - 1)}
        case "additionalProperties", dict():
            return {keyword: to_structural(value, definitions, f"{path}{{}}")}
        case "const", _:
            return {"enum": [value]}
        case (("exclusiveMinimum" | "exclusiveMaximum"), _):
            return {keyword: True, keyword.removeprefix("exclusive").lower(): value}
        case "description", str():
            return {keyword: re.sub(r"(?<=\S)\n(?=\S)", " ", value)}  # whoever shows it breaks the lines anew
        case "default", _:
            return {keyword: _without_nulls(value)}
        case "pattern", _ if value == URI_PATTERN:
            return {keyword: "^s3://.+$"}  # a pod has no files of the person who writes the run
        case _ if keyword in _KEPT:
            return {keyword: value}
    raise UnsupportedSchemaError(f"{path}: a CRD cannot say {keyword}: {value!r}")


def _build_any(depth: int) -> Schema:
    """Return the schema of any JSON of so many levels. Unbounded, 3 KB of brackets are too much for many clients."""
    bounds = {
        "x-kubernetes-preserve-unknown-fields": True,
        "nullable": True,
        "maxLength": MAX_CONFIG_TEXT_LENGTH,
        "maxItems": MAX_CONFIG_ENTRIES if depth else 0,
        "maxProperties": MAX_CONFIG_ENTRIES if depth else 0,
    }
    nested = {name: _build_any(depth - 1) for name in ("items", "additionalProperties")} if depth else {}
    return bounds | nested


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return value


# ------------------------------------------------------------------------------------------------------ command line


def render(resource: Resource) -> str:
    """Return the CRD as YAML, the same bytes each time."""
    header = "# Made from the models in operator/runyard by `make generate`; do not edit.\n"
    return header + yaml.safe_dump(build_crd(resource), sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Write or check the committed files; return the exit status."""
    root = Path(__file__).parents[4]
    wanted = {root / path: render(resource) for resource in RESOURCES for path in resource.paths}
    for path, text in wanted.items():
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        found = path.read_text() if path.exists() else ""
        if found != text:
            diff = difflib.unified_diff(found.splitlines(), text.splitlines(), str(path), "generated", lineterm="")
            sys.stdout.write("\n".join([*diff, "The CRD is stale: run `make generate` and commit it.\n"]))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
