"""What the CRD refuses besides wrong types: CEL rules, each with a message that says what to do.

They are those of the pydantic models, as far as the API server can check them: `kubectl apply` tells what the trainer
would tell only later.
"""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from runyard_trainer.contract.data import RECORD_FORMATS, REFERENCE_METHODS
from runyard_trainer.contract.models import ADAPTER_FIELDS
from runyard_trainer.contract.objectives import (
    EXTENDABLE_OBJECTIVES,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    NEXT_TOKEN_OBJECTIVES,
)

from runyard.api.crd.select_rules import build_select_rules
from runyard.api.trainingrun import MAX_NAME_LENGTH, Compute, TrainingRunSpec

Rule = dict[str, str]

MUTABLE_WHILE_SUSPENDED = ("nodes", "minNodes")
"""Of compute."""

MUTABLE_FIELDS = ("suspend", "limits", "ttlSecondsAfterFinished", "prepare")

_IS_MASKED = f"self.objective in {sorted(MASKED_OBJECTIVES)}"


def build_root_rules() -> list[Rule]:
    """CEL rules on metadata.name, and on what the status says: only the root's can see these."""
    return [
        {
            "rule": "self.spec.prepare == oldSelf.spec.prepare || !has(self.status) || !has(self.status.conditions) || "
            "!self.status.conditions.exists(each, each.type in ['Prepared', 'Failed'] && each.status == 'True')",
            "message": "spec.prepare can change only until preparation has ended: to prepare anew, delete the run and "
            "create another with output.takeOver: true",
            "fieldPath": ".spec.prepare",
        },
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


def build_rules() -> dict[str, list[Rule]]:
    """CEL rules by the path of the field, below spec, that they stand on."""
    record_formats = {name for formats in RECORD_FORMATS.values() for name in formats}
    return {
        "": [
            *(_immutable(field) for field in _aliases(TrainingRunSpec) if field not in (*MUTABLE_FIELDS, "compute")),
            *(_immutable_unless_suspended(field) for field in MUTABLE_WHILE_SUSPENDED),
            *_build_output_rules(),
            *_build_objective_rules(),
            *_build_method_rules(),
            *_build_vocabulary_rules(),
            *(_own_formats(objective, formats) for objective, formats in RECORD_FORMATS.items()),
            {
                "rule": "!has(self.queue.name) || !has(self.compute.minNodes)",
                "message": "compute.minNodes and queue.name do not go together: Kueue admits all nodes or none; leave "
                "one of them out",
                "fieldPath": ".compute.minNodes",
            },
            {
                "rule": "!has(self.training.earlyStopping) || has(self.evaluation.everySteps)",
                "message": "training.earlyStopping needs evaluation.everySteps: say how often to measure",
                "fieldPath": ".training.earlyStopping",
            },
        ],
        "evaluation": [
            {
                "rule": "!has(self.tasks) || self.tasks.all(task, has(task.preset) != has(task.type))",
                "message": "evaluation.tasks[] needs exactly one of preset, type",
                "fieldPath": ".tasks",
            },
            {
                "rule": "!has(self.tasks) || "
                "self.tasks.all(task, self.tasks.exists_one(other, other.name == task.name))",
                "message": "evaluation.tasks[].name: two tasks have the same: name each differently",
                "fieldPath": ".tasks",
            },
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
            {
                "rule": "!has(self.extendVocabulary) || !has(self.scratch)",
                "message": "model.extendVocabulary adds to the tokenizer of a model that has learned something, and "
                "model.scratch has none: remove it, and say model.scratch.tokenizer.train.vocabSize",
                "fieldPath": ".extendVocabulary",
            },
        ],
        "data": [
            {
                "rule": "!has(self.select) || has(self.select.reference) || "
                f"!(self.select.method in {list(REFERENCE_METHODS)}) || "
                "has(self.replay) && has(self.replay.sources)",
                "message": "data.select.method novelty-diversity or combined asks what is new to the model: give text "
                "that it knows in data.select.reference, or data.replay.sources",
                "fieldPath": ".select",
            },
            {
                "rule": "self.train.size() != 1 || self.train[0].weight == 1.0",
                "message": "data.train[0].weight has no other source to weigh against: remove it, and say "
                "training.epochs",
                "fieldPath": ".train",
            },
        ],
        "data.select": build_select_rules(),
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


def _build_output_rules() -> list[Rule]:
    return [
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
    ]


def _build_objective_rules() -> list[Rule]:
    return [
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
            "rule": "!has(self.evaluation) || !has(self.evaluation.tasks) || self.evaluation.tasks.size() == 0 "
            f"|| self.objective in {sorted(NEXT_TOKEN_OBJECTIVES)}",
            "message": "evaluation.tasks are asked of models that predict the next token (objectives "
            f"{', '.join(sorted(NEXT_TOKEN_OBJECTIVES))}): remove them",
            "fieldPath": ".evaluation.tasks",
        },
        {
            "rule": "!has(self.evaluation) || !has(self.evaluation.judge) || "
            f"self.objective in {sorted(NEXT_TOKEN_OBJECTIVES)}",
            "message": "evaluation.judge compares what models write (objectives "
            f"{', '.join(sorted(NEXT_TOKEN_OBJECTIVES))}): remove it",
            "fieldPath": ".evaluation.judge",
        },
        {
            "rule": "!has(self.evaluation) || !has(self.evaluation.judge) || "
            "(self.evaluation.before && !has(self.model.scratch))",
            "message": "evaluation.judge compares with the model as it came: give model.uri or model.run, and leave "
            "evaluation.before true",
            "fieldPath": ".evaluation.judge",
        },
        {
            "rule": "!has(self.data.replay) || !has(self.data.replay.source) || "
            "(self.objective == 'causal-lm' && !has(self.model.scratch))",
            "message": "data.replay.source self replays what a causal-lm that knows something writes: give "
            "data.replay.sources",
            "fieldPath": ".data",
        },
        {
            "rule": f"!has(self.data.select) || self.objective in {sorted(LANGUAGE_OBJECTIVES)}",
            "message": "data.select chooses among texts without labels, and those of this objective have some: remove "
            "it",
            "fieldPath": ".data",
        },
        {
            "rule": "self.objective == 'preference' || !has(self.preference.beta)",
            "message": "preference.beta belongs to objective preference: remove it",
            "fieldPath": ".preference.beta",
        },
    ]


def _build_method_rules() -> list[Rule]:
    return [
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
    ]


def _build_vocabulary_rules() -> list[Rule]:
    return [
        {
            "rule": f"!has(self.model.extendVocabulary) || self.objective in {sorted(EXTENDABLE_OBJECTIVES)}",
            "message": "model.extendVocabulary is for objectives "
            f"{' and '.join(sorted(EXTENDABLE_OBJECTIVES))}: remove it",
            "fieldPath": ".model.extendVocabulary",
        },
        {
            "rule": "!has(self.model.extendVocabulary) || !has(self.data.replay) || !has(self.data.replay.source)",
            "message": "data.replay.source self replays what the model knows, and it has never seen the tokens of "
            "model.extendVocabulary: give data.replay.sources",
            "fieldPath": ".data",
        },
    ]


def _build_compute_rules() -> list[Rule]:
    fixed = [field for field in _aliases(Compute) if field not in MUTABLE_WHILE_SUSPENDED]
    return [
        {**_immutable(f"compute.{field}"), "rule": _is_unchanged("", field), "fieldPath": f".{field}"}
        for field in fixed
    ]


def _immutable(field: str) -> Rule:
    exceptions = ", ".join((*MUTABLE_FIELDS, *(f"compute.{name}" for name in MUTABLE_WHILE_SUSPENDED)))
    return {
        "rule": _is_unchanged("", field),
        "message": f"spec.{field} cannot change once the run exists (only {exceptions} can): delete the run and create "
        "another",
        "fieldPath": f".{field}",
    }


def _own_formats(objective: str, formats: tuple[str, ...]) -> Rule:
    is_used = f"exists(source, source.format in {list(formats)})"
    return {
        "rule": f"self.objective == '{objective}' || !(self.data.train.{is_used} || "
        f"has(self.data.replay) && has(self.data.replay.sources) && self.data.replay.sources.{is_used} || "
        f"has(self.data.validation.sources) && self.data.validation.sources.{is_used})",
        "message": f"the formats {', '.join(formats)} are those of objective {objective}: write how the files are, or "
        "auto",
        "fieldPath": ".data",
    }


def _immutable_unless_suspended(field: str) -> Rule:
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


def _exactly_one(path: str, *fields: str) -> Rule:
    present = ", ".join(f"has(self.{field})" for field in fields)
    return {
        "rule": f"[{present}].exists_one(given, given)",
        "message": f"{path} needs exactly one of {', '.join(fields)}",
    }


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias or to_camel(name) for name, field in model.model_fields.items()]
