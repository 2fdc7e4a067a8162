"""The CRD's generator: what it can say it says, and what it cannot it refuses."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model
from runyard.api.crd import generate
from runyard.api.crd.generate import UnsupportedSchemaError, build_crd, to_structural
from runyard.api.crd.rules import MUTABLE_FIELDS, build_change_rules
from runyard.api.trainingrun import Phase, TrainingRunSpec


class Inner(BaseModel):
    size: int = 3


def translate(kind: Any, **field: Any) -> dict[str, Any]:
    """The structural schema of a field of that type."""
    model: type[BaseModel] = create_model("Outer", it=(kind, Field(**field)))
    schema = model.model_json_schema()
    translated: dict[str, Any] = to_structural(schema, schema.get("$defs", {}), "Outer")["properties"]["it"]
    return translated


SIZE = {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}
BOUNDS = {"minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True}


class Level(IntEnum):
    LOW = 1
    HIGH = 2


SAID: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "a bound that is excluded": (float, {"gt": 0, "lt": 1}, {"type": "number", **BOUNDS}),
    "what may be absent": (int | None, {"default": None, "ge": 1}, {"type": "integer", "minimum": 1}),
    "one value": (Literal["bpe"], {"default": "bpe"}, {"type": "string", "enum": ["bpe"], "default": "bpe"}),
    "one of some words": (Literal["a", "b"], {}, {"type": "string", "enum": ["a", "b"]}),
    "an enumeration of words": (Phase, {}, {"type": "string", "enum": [phase.value for phase in Phase]}),
    "an enumeration of numbers": (Level, {}, {"type": "integer", "enum": [1, 2]}),
    "texts by name": (dict[str, str], {}, {"type": "object", "additionalProperties": {"type": "string"}}),
    "an object in place of its name": (Inner, {}, SIZE),
    "an object with its default": (Inner, {"default": Inner()}, {**SIZE, "default": {"size": 3}}),
    "a bounded list": (list[str], {"max_length": 4}, {"type": "array", "items": {"type": "string"}, "maxItems": 4}),
}  # fmt: skip


@pytest.mark.parametrize("what", SAID)
def test_it_says(what: str) -> None:
    kind, field, want = SAID[what]
    assert {key: value for key, value in translate(kind, **field).items() if key != "description"} == want


@pytest.mark.parametrize("kind", [int | str, Inner | Level, set[int], tuple[int, str], Any], ids=str)
def test_it_refuses_with_the_fields_path_what_a_crd_cannot_say(kind: Any) -> None:
    with pytest.raises(UnsupportedSchemaError, match=r"Outer\.it"):
        translate(kind)


def test_every_field_of_a_spec_is_fixed_but_those_that_may_change() -> None:
    fields = {field.alias for field in TrainingRunSpec.model_fields.values()}
    fixed = {
        rule["fieldPath"].removeprefix(".") for rule in build_change_rules()[""] if "cannot change" in rule["message"]
    }
    assert fields - fixed == {"suspend", "limits", "ttlSecondsAfterFinished", "prepare", "compute"}


def test_a_rule_on_changes_sees_each_field_come_and_go() -> None:
    spec = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert [
        name
        for name, field in spec["properties"].items()
        if name not in (*spec["required"], *MUTABLE_FIELDS) and "default" not in field
    ] == []


def test_the_check_tells_a_stale_file_by_a_diff_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "operator" / "runyard" / "api" / "crd" / "generate.py"))
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    chart = tmp_path / generate.TRAINING_RUN.paths[1]
    stale = chart.read_text().replace("shortNames", "longNames")
    chart.write_text(stale)
    assert generate.main(["--check"]) == 1
    assert "-    longNames:" in capsys.readouterr().out
    assert chart.read_text() == stale
