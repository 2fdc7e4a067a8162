"""JSON of anybody's is read to a bounded depth, whatever is in its texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard.cluster.bounded_json import MAX_DEPTH, bound_json, parse_json

NESTS = {"lists": ("[", "]"), "objects": ('{"a": ', "}"), "both": ('[{"a": ', "}]")}
TEXTS = st.text(st.sampled_from('ab"\\[]{}\n,:'))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


def depth_of(value: Any) -> int:
    """Of the innermost value of a nest without branches."""
    depth = 0
    while isinstance(value, list | dict) and value:
        value = value[0] if isinstance(value, list) else value["a"]
        depth += 1
    return depth


@given(VALUES)
def test_what_is_not_deep_is_as_it_was(value: Any) -> None:
    text = json.dumps(value)
    assert bound_json(text) == text


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("times", [1, 30, 64, 65, 1100, 9_900])
@pytest.mark.parametrize("inside", ["1", '"]}"', '"\\"[{"', "[]", "null"])
def test_what_lies_deeper_is_null_and_what_stands_beside_stays(nest: str, times: int, inside: str) -> None:
    opening, closing = NESTS[nest]
    text = f'{{"before": ["]"], "deep": {opening * times}{inside}{closing * times}, "after": {{"b": "[{{\\""}}}}'
    found = parse_json(text)
    assert (found["before"], found["after"]) == (["]"], {"b": '[{"'})
    assert depth_of(found["deep"]) <= MAX_DEPTH - 1
    if times * len(opening.replace('"a": ', "")) < MAX_DEPTH - 1:
        assert found == json.loads(text)


@pytest.mark.parametrize("text", ['"', '["', "[}", '{"a', "[" * 100, "]" * 100, "[" * 100 + "}" * 100, '[1,"\\"]'])
def test_what_is_no_json_is_told_so(text: str) -> None:
    with pytest.raises(ValueError, match="char"):
        parse_json(text)
