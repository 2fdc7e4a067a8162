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
from pydantic.alias_generators import to_camel
from runyard_trainer.contract import (
    ADAPTER_FIELDS,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    RECORD_FORMATS,
    URI_PATTERN,
)

from runyard.api import GROUP, KIND, MAX_NAME_LENGTH, PLURAL, VERSION, Compute, TrainingRunSpec, TrainingRunStatus

Schema = dict[str, Any]

PATHS = ("crds/runyard.dev_trainingruns.yaml", "charts/runyard/crds/runyard.dev_trainingruns.yaml")
"""Where the CRD is committed, below the root of the repository: for kubectl, and for helm."""

MUTABLE_WHILE_SUSPENDED = ("nodes", "minNodes")
"""Of compute."""

MUTABLE_FIELDS = ("suspend", "ttlSecondsAfterFinished")

_IS_MASKED = f"self.objective in {sorted(MASKED_OBJECTIVES)}"

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


def build_name_rules() -> list[dict[str, str]]:
    """CEL rules on metadata.name, which only the root's can see."""
    return [
        {
            "rule": f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
            "message": f"metadata.name may have at most {MAX_NAME_LENGTH} characters: the names of the run's Jobs "
            "and pods are made from it; choose a shorter one",
        },
        {
            "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "message": "metadata.name must begin with a letter and have no dots, as the host names of the run's pods "
            "are made from it: use lower-case letters, digits and '-'",
        },
        {
            "rule": "!has(self.spec.model.run) || self.spec.model.run.name != self.metadata.name",
            "message": "spec.model.run.name is this run itself, which would wait for ever: name another run",
        },
    ]


def build_rules() -> dict[str, list[dict[str, str]]]:
    """CEL rules by the path of the field, below spec, that they stand on."""
    record_formats = {name for formats in RECORD_FORMATS.values() for name in formats}
    return {
        "": [_immutable(field) for field in _aliases(TrainingRunSpec) if field not in (*MUTABLE_FIELDS, "compute")]
        + [_immutable_unless_suspended(field) for field in MUTABLE_WHILE_SUSPENDED]
        + [
            {
                "rule": f"!has(self.model.uri) || {_as_folder('self.model.uri')} != {_as_folder('self.output.uri')}",
                "message": "output.uri is model.uri: a run never writes over its model; choose another output.uri",
                "fieldPath": ".output.uri",
            },
            {
                "rule": "!self.data.train.exists(source, source.uri.endsWith('/') && "
                f"{_as_folder('self.output.uri')}.startsWith(source.uri))",
                "message": "output.uri lies in a folder of data.train, so what the run leaves would become text to "
                "train on; choose another output.uri",
                "fieldPath": ".output.uri",
            },
            *(_own_formats(objective, formats) for objective, formats in RECORD_FORMATS.items()),
            {
                "rule": "!has(self.training.earlyStopping) || has(self.evaluation.everySteps)",
                "message": "training.earlyStopping needs evaluation.everySteps: say how often to measure",
                "fieldPath": ".training.earlyStopping",
            },
            {
                "rule": f"!self.masking.wholeWord || {_IS_MASKED}",
                "message": "masking.wholeWord is for objectives masked-lm and masked-lm-nsp: leave it out",
                "fieldPath": ".masking.wholeWord",
            },
            {
                "rule": "!has(self.model.scratch) || !has(self.model.scratch.tokenizer.train) || "
                f"self.model.scratch.tokenizer.train.type != 'wordpiece' || {_IS_MASKED}",
                "message": "model.scratch.tokenizer.train.type wordpiece is for objectives masked-lm and "
                "masked-lm-nsp: write bpe",
                "fieldPath": ".model.scratch.tokenizer.train.type",
            },
            {
                "rule": f"!has(self.model.scratch) || self.objective in {sorted(LANGUAGE_OBJECTIVES)}",
                "message": "model.scratch begins with random weights, and this objective fine-tunes a model: name one "
                "in model.uri or model.run",
                "fieldPath": ".model.scratch",
            },
            {
                "rule": "!has(self.evaluation) || !has(self.evaluation.general) || self.evaluation.general.size() == 0 "
                f"|| !(self.objective in {sorted(HEAD_OBJECTIVES)})",
                "message": "evaluation.general measures how tokens are predicted, which a model has no head for after "
                "this objective: remove evaluation.general",
                "fieldPath": ".evaluation.general",
            },
            {
                "rule": "!has(self.data.replay) || !has(self.data.replay.source) || "
                "(self.objective == 'causal-lm' && !has(self.model.scratch))",
                "message": "data.replay.source self replays what a causal-lm that knows something writes: give "
                "data.replay.sources",
                "fieldPath": ".data",
            },
            {
                "rule": "self.method.type == 'full' || !has(self.model.scratch)",
                "message": "method.type adapts weights that have learned something, and model.scratch has none: set "
                "method.type to full, or model.uri",
                "fieldPath": ".method.type",
            },
            {
                "rule": "self.method.type != 'qlora' || self.compute.gpusPerNode > 0",
                "message": "method.type qlora computes with weights of 4 bits, which CUDA GPUs alone do here: set "
                "compute.gpusPerNode, or method.type to lora",
                "fieldPath": ".method.type",
            },
            {
                "rule": "self.objective != 'preference' || !has(self.method.dropout) || self.method.dropout == 0.0",
                "message": "preference is trained without dropout: remove method.dropout",
                "fieldPath": ".method.dropout",
            },
            {
                "rule": "self.objective == 'preference' || !has(self.preference.beta)",
                "message": "preference.beta belongs to objective preference: remove it",
                "fieldPath": ".preference.beta",
            },
        ],
        "evaluation": [
            {
                "rule": "!has(self.general) || "
                f"!self.general.exists(source, source.format in {sorted(record_formats)})",
                "message": "evaluation.general is text, which has no records: write how its files are, or auto",
                "fieldPath": ".general",
            },
            {
                "rule": "!has(self.maxGeneralLossIncrease) || "
                "(self.before && has(self.general) && size(self.general) > 0)",
                "message": "evaluation.maxGeneralLossIncrease compares the loss on evaluation.general with that before "
                "training: give evaluation.general, and leave evaluation.before true",
            },
        ],
        "model": [
            _exactly_one("model", "uri", "run", "scratch"),
            {
                "rule": "has(self.uri) || !(has(self.digest) || has(self.step))",
                "message": "model.digest and model.step are of the folder at model.uri, which is absent: remove them",
            },
            {
                "rule": "!has(self.digest) || !has(self.step)",
                "message": "model.digest is of the exported weights, and model.step takes others: keep one of them",
            },
        ],
        "data.replay": [_exactly_one("data.replay", "sources", "source")],
        "method": [
            {
                "rule": f"self.type != 'full' || !({' || '.join(f'has(self.{field})' for field in ADAPTER_FIELDS)})",
                "message": f"method.{', '.join(ADAPTER_FIELDS)} belong to an adapter, and method.type is full: remove "
                "them, or set method.type to lora or dora",
            },
        ],
        "compute": [
            *_build_compute_rules(),
            {
                "rule": "!has(self.minNodes) || self.minNodes <= self.nodes",
                "message": "compute.minNodes is more than compute.nodes: lower it, or leave it out",
                "fieldPath": ".minNodes",
            },
        ],
        "model.scratch.tokenizer": [_exactly_one("model.scratch.tokenizer", "train", "uri")],
        "data.validation": [
            {
                "rule": "!has(self.fraction) || !has(self.sources)",
                "message": "data.validation.fraction and data.validation.sources are both set: keep one of them",
            },
        ],
        "training": [
            _exactly_one("training", "epochs", "tokens", "steps"),
            {
                "rule": "!has(self.batchTokens) || !has(self.batchSequences)",
                "message": "training.batchTokens and training.batchSequences are both set: keep one of them",
            },
            {
                "rule": "!has(self.batchTokens) || self.batchTokens % self.sequenceLength == 0",
                "message": "training.batchTokens is not a multiple of training.sequenceLength",
                "fieldPath": ".batchTokens",
            },
        ],
    }


def _build_compute_rules() -> list[dict[str, str]]:
    fixed = [field for field in _aliases(Compute) if field not in MUTABLE_WHILE_SUSPENDED]
    return [
        {**_immutable(f"compute.{field}"), "rule": _is_unchanged("", field), "fieldPath": f".{field}"}
        for field in fixed
    ]


def _immutable(field: str) -> dict[str, str]:
    exceptions = ", ".join((*MUTABLE_FIELDS, *(f"compute.{name}" for name in MUTABLE_WHILE_SUSPENDED)))
    return {
        "rule": _is_unchanged("", field),
        "message": f"spec.{field} cannot change once the run exists (only {exceptions} can): delete the run and create "
        "another",
        "fieldPath": f".{field}",
    }


def _own_formats(objective: str, formats: tuple[str, ...]) -> dict[str, str]:
    is_used = f"exists(source, source.format in {list(formats)})"
    return {
        "rule": f"self.objective == '{objective}' || !(self.data.train.{is_used} || "
        f"has(self.data.replay) && has(self.data.replay.sources) && self.data.replay.sources.{is_used} || "
        f"has(self.data.validation.sources) && self.data.validation.sources.{is_used})",
        "message": f"the formats {', '.join(formats)} are those of objective {objective}: write how the files are, or "
        "auto",
        "fieldPath": ".data",
    }


def _immutable_unless_suspended(field: str) -> dict[str, str]:
    return {
        "rule": f"oldSelf.suspend || ({_is_unchanged('compute.', field)})",
        "message": f"spec.compute.{field} can change only while the run is suspended: set spec.suspend first",
        "fieldPath": f".compute.{field}",
    }


def _is_unchanged(parent: str, field: str) -> str:
    """Also where it may be absent."""
    new, old = f"self.{parent}{field}", f"oldSelf.{parent}{field}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def _as_folder(uri: str) -> str:
    """A trailing slash makes no difference."""
    return f"({uri}.endsWith('/') ? {uri} : {uri} + '/')"


def _exactly_one(path: str, *fields: str) -> dict[str, str]:
    present = ", ".join(f"has(self.{field})" for field in fields)
    return {
        "rule": f"[{present}].exists_one(given, given)",
        "message": f"{path} needs exactly one of {', '.join(fields)}",
    }


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias or to_camel(name) for name, field in model.model_fields.items()]


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
