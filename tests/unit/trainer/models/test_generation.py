"""generation_config.json: kept as it is, with more ends where there are, and refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.models.generation import add_ends, parse_generation, read_ends, take_file, write_generation


@pytest.mark.parametrize(
    ("own", "added", "want"),
    [
        ({"eos_token_id": [1, 3]}, [], [1, 3]),
        ({"eos_token_id": [1, 3]}, [3], [1, 3]),
        ({"eos_token_id": [3, 1]}, [5, 1, 4], [3, 1, 5, 4]),
        ({"eos_token_id": 1}, [1], 1),
        ({"eos_token_id": 1}, [3], [1, 3]),
        ({"eos_token_id": None}, [7], 7),
        ({}, [8], [7, 8]),
        ({}, [], None),
    ],
)
def test_ends_are_added_behind_those_that_it_has_or_config_json_where_it_has_none(
    own: dict[str, Any], added: list[int], want: Any
) -> None:
    rest = {"temperature": 0.6, "of_tomorrow": {"nested": [None, 0.1]}}
    got = add_ends(rest | own, added, known=[7])
    assert got.get("eos_token_id") == want
    assert {name: value for name, value in got.items() if name != "eos_token_id"} == rest


def test_what_is_written_is_what_was_read_field_by_field(tmp_path: Path) -> None:
    given = {
        "of_tomorrow": "ü\ud83d",
        "temperature": 1e-07,
        "eos_token_id": [2, 1],
        "_from_model_config": True,
        "top_k": None,
    }
    write_generation(parse_generation(json.dumps(given).encode(), "file:///model"), tmp_path)
    assert read_ends(tmp_path) == [2, 1]
    taken = take_file(tmp_path)
    assert taken is not None
    assert list(json.loads(taken).items()) == list(given.items())
    assert take_file(tmp_path) is None
    assert read_ends(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"eos_token_id": [1, 3', "is damaged: Expecting ',' delimiter"),
        ("", "is damaged: Expecting value"),
        ("\udc80", "is damaged: .* can't decode"),
        ("[1, 3]", "is no JSON object: upload it again"),
        ('{"eos_token_id": "</s>"}', 'eos_token_id is "</s>": give the id of a token, or a list of them'),
        ('{"eos_token_id": [1, null]}', r"eos_token_id is \[1, null\]: give the id"),
    ],
)
def test_a_damaged_one_is_refused_with_where_it_lies(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.uri: file:///model/generation_config\.json:? {reason}") as refused:
        parse_generation(text.encode(errors="surrogateescape"), "file:///model")
    assert refused.value.code == ExitCode.DATA_ERROR
