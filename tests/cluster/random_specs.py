"""Random specs of TrainingRuns, drawn from the CRD's schema.

admitted: mended where fields must fit together, so that the API server takes every one
altered:  some fields of an admitted one drawn anew or left out, so that rules across fields are kept or broken
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

from hypothesis import strategies as st
from runyard.api.crd.generate import build_crd
from runyard.api.crd.rules import build_cross_rules
from runyard.api.trainingrun import TrainingRunSpec
from runyard_trainer.contract.data import RECORD_FORMATS, REFERENCE_METHODS, TARGET_METHODS
from runyard_trainer.contract.models import ADAPTER_FIELDS
from runyard_trainer.contract.objectives import (
    EXTENDABLE_OBJECTIVES,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    NEXT_TOKEN_OBJECTIVES,
)

SPEC_SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
ONE_OF = {
    "data.replay": [["sources"], ["source"]],
    "data.validation": [[], ["fraction"], ["sources"]],
    "model": [["uri"], ["uri", "digest"], ["uri", "step"], ["run"], ["scratch"]],
    "model.scratch.tokenizer": [["uri"], ["train"]],
    "training": [
        [length, *batch] for length in ("epochs", "tokens", "steps") for batch in ((), ("batchSequences",))
    ],
}  # fmt: skip
"""By path: the sets of members of a union that may be there together."""
MEMBERS = {path: {name for choice in choices for name in choice} for path, choices in ONE_OF.items()}


def values(schema: dict[str, Any], path: str = "") -> st.SearchStrategy[Any]:
    """Whatever the CRD's schema admits at `path`."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "type" not in schema:
        if "items" not in schema:
            return SCALARS
        nested = values(schema["items"])
        return SCALARS | st.lists(nested, max_size=3) | st.dictionaries(NAMES, nested, max_size=3)
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            return st.dictionaries(NAMES, values(schema["additionalProperties"]), max_size=4)
        case "object":
            return objects(schema, path)
        case "array":
            return st.lists(
                values(schema["items"], f"{path}[]"), min_size=schema.get("minItems", 0), max_size=3
            )  # fmt: skip
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", 0), schema.get("maximum", 2**53))
        case "number":
            low, high = schema.get("minimum", 0), schema.get("maximum", 10_000)
            numbers = st.floats(low, high, exclude_min="exclusiveMinimum" in schema,
                                exclude_max="exclusiveMaximum" in schema, allow_subnormal=False)  # fmt: skip
            return numbers.filter(lambda number: number == 0 or abs(math.log10(abs(number))) < 300)
        case "string" if "pattern" in schema:
            fits = st.from_regex(
                schema["pattern"].removesuffix("$") + r"\Z",
                alphabet=st.characters(codec="ascii", categories=["L", "N", "P"]),
            )
            return fits.filter(
                lambda text: schema.get("minLength", 0) <= len(text) <= min(80, schema.get("maxLength", 60))
            )
        case "string":
            return st.text(
                st.characters(codec="utf-8", categories=["L", "N", "P", "S"]),
                min_size=schema.get("minLength", 0),
                max_size=20,
            )
    raise AssertionError(schema)


NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
SCALARS = st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8) | st.floats(-1e6, 1e6)


@st.composite
def objects(draw: st.DrawFn, schema: dict[str, Any], path: str) -> dict[str, Any]:
    chosen = set(draw(st.sampled_from(ONE_OF[path]))) if path in ONE_OF else set()
    made = {}
    for name, field in schema["properties"].items():
        in_union = name in MEMBERS.get(path, set()) or (path == "training" and name == "batchTokens")
        is_there = name in chosen if in_union else name in schema.get("required", []) or draw(st.booleans())
        if is_there:
            made[name] = draw(values(field, f"{path}.{name}".lstrip(".")))
    return made


def mend(spec: dict[str, Any]) -> dict[str, Any]:
    """Without what some of its parts do not admit beside the others."""
    objective, model = spec.get("objective", "causal-lm"), spec["model"]
    if "scratch" in model and objective not in LANGUAGE_OBJECTIVES:
        model = spec["model"] = {"uri": "s3://models/a"}
    if objective not in MASKED_OBJECTIVES:
        spec.pop("masking", None)
        model.get("scratch", {}).get("tokenizer", {}).get("train", {}).pop("type", None)
    if objective not in EXTENDABLE_OBJECTIVES or "scratch" in model:
        model.pop("extendVocabulary", None)
    if "extendVocabulary" in model and "source" in spec["data"].get("replay", {}):
        del spec["data"]["replay"]
    mend_method(spec, objective)
    mend_evaluation(spec, objective)
    mend_tasks(spec, objective)
    if "source" in spec["data"].get("replay", {}) and (objective != "causal-lm" or "scratch" in model):
        del spec["data"]["replay"]
    mend_formats(spec, objective)
    mend_select(spec, objective)
    if len(spec["data"]["train"]) == 1:
        spec["data"]["train"][0].pop("weight", None)
    is_too_large = spec["compute"].get("minNodes", 1) > spec["compute"].get("nodes", 1)
    if is_too_large or ("name" in spec.get("queue", {}) and "minNodes" in spec["compute"]):
        del spec["compute"]["minNodes"]
    return spec


def mend_method(spec: dict[str, Any], objective: str) -> None:
    method = spec.get("method", {})
    if method.get("type", "full") == "full":
        for field in ADAPTER_FIELDS:
            method.pop(field, None)
    elif "scratch" in spec["model"] or (method["type"] == "qlora" and not spec["compute"].get("gpusPerNode", 1)):
        del spec["method"]
    if objective == "preference":
        method.pop("dropout", None)
    else:
        spec.pop("preference", None)


def mend_evaluation(spec: dict[str, Any], objective: str) -> None:
    evaluation = spec.get("evaluation", {})
    if objective in HEAD_OBJECTIVES:
        evaluation.pop("general", None)
    if not (evaluation.get("general") and evaluation.get("before", True)):
        evaluation.pop("maxGeneralLossIncrease", None)
    if "everySteps" not in evaluation:
        spec.get("training", {}).pop("earlyStopping", None)


def mend_tasks(spec: dict[str, Any], objective: str) -> None:
    evaluation = spec.get("evaluation", {})
    if objective not in NEXT_TOKEN_OBJECTIVES:
        evaluation.pop("tasks", None)
    if objective not in NEXT_TOKEN_OBJECTIVES or "scratch" in spec["model"] or not evaluation.get("before", True):
        evaluation.pop("judge", None)
    for i, task in enumerate(evaluation.get("tasks", [])):
        task["name"] = f"task-{i}"
        if "preset" in task:
            task.pop("type", None)
        else:
            task.setdefault("type", "entities")


def mend_formats(spec: dict[str, Any], objective: str) -> None:
    data = spec["data"]
    records = [data["train"], data.get("replay", {}).get("sources", []), data.get("validation", {}).get("sources", [])]
    general = spec.get("evaluation", {}).get("general", [])
    for sources, known in (*((each, RECORD_FORMATS.get(objective, ())) for each in records), (general, ())):
        for source in sources:
            if any(
                source.get("format") in names and source["format"] not in known for names in RECORD_FORMATS.values()
            ):
                del source["format"]


def mend_select(spec: dict[str, Any], objective: str) -> None:
    select = spec["data"].get("select", {})
    if objective not in LANGUAGE_OBJECTIVES:
        spec["data"].pop("select", None)
    elif select:
        if select["method"] == "perplexity":
            select["method"] = "combined"
        for name, methods in {"target": TARGET_METHODS, "reference": REFERENCE_METHODS}.items():
            if select["method"] in methods:
                select.setdefault(name, [{"uri": f"s3://c/{name}"}])
            else:
                select.pop(name, None)
            for source in select.get(name, []):
                source.pop("format", None)
        if select["method"] not in REFERENCE_METHODS or select["fraction"] + select.get("noiseClip", 0.1) > 1:
            select.pop("noiseClip", None)
            select["fraction"] = min(select["fraction"], 0.5)


def writes_apart(spec: dict[str, Any]) -> bool:
    """Whether the output lies neither among the text nor over the model."""
    output = spec["output"]["uri"].rstrip("/") + "/"
    sources = [source["uri"] for source in spec["data"]["train"]]
    is_in_its_own_text = any(uri.endswith("/") and output.startswith(uri) for uri in sources)
    return not is_in_its_own_text and spec["model"].get("uri", "").rstrip("/") + "/" != output


def admitted() -> st.SearchStrategy[dict[str, Any]]:
    return values(SPEC_SCHEMA).map(mend).filter(writes_apart)


def schema_at(path: tuple[str, ...]) -> dict[str, Any] | None:
    """None where the path leads into a list, or to no field."""
    schema: dict[str, Any] | None = SPEC_SCHEMA
    for name in path:
        schema = schema.get("properties", {}).get(name) if schema is not None else None
    return schema


def find_ruled_fields() -> list[tuple[str, ...]]:
    """The fields that rules across fields read."""
    found = set()
    for place, rules in build_cross_rules(TrainingRunSpec).items():
        for rule in rules:
            for name in re.findall(r"self\.([a-zA-Z.]+)", rule["rule"]):
                found.add(tuple(f"{place}.{name}".strip(".").split(".")))
    return sorted(path for path in found if schema_at(path) is not None)


RULED_FIELDS = find_ruled_fields()


@st.composite
def altered(draw: st.DrawFn, base: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(base)
    if draw(st.booleans()):  # a third of the rules look at it
        alter(draw, spec, ("objective",))
    for path in draw(st.lists(st.sampled_from(RULED_FIELDS), min_size=0, max_size=3)):
        alter(draw, spec, path)
    return spec


def alter(draw: st.DrawFn, spec: dict[str, Any], path: tuple[str, ...]) -> None:
    """Leave the field out, or draw it anew, with the first of its parents that is absent."""
    parent = spec
    for depth, name in enumerate(path, start=1):
        here = path[:depth]
        if name not in parent or here == path:
            outer, schema = schema_at(here[:-1]), schema_at(here)
            assert outer is not None
            assert schema is not None
            if name in parent and name not in outer.get("required", []) and draw(st.booleans()):
                del parent[name]
            else:
                parent[name] = draw(values(schema, ".".join(here)))
            return
        parent = parent[name]
