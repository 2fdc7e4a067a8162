"""How a file that a person wrote is read, and what the person is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.reading import read_document, read_recipe

RECIPE = """
model:
  scratch:
    config: {model_type: llama, rms_norm_eps: 1e-6}
    tokenizer: {train: {vocabSize: 512}}
data: {train: [{uri: "file:///text/"}]}
training: {epochs: 1, learningRate: 5e-5}
output: {uri: "file:///out"}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_number_written_5e_5_is_a_number_wherever_it_stands(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.training.learning_rate == 5e-5
    assert recipe.model.scratch is not None
    assert recipe.model.scratch.config["rms_norm_eps"] == 1e-6


def test_mistakes_in_a_recipe_are_a_line_each_with_the_path_of_the_field(path: Path) -> None:
    path.write_text(RECIPE.replace("epochs: 1", "epochs: -1, stepps: 3").replace('uri: "file:///text/"', "uri: 3"))
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path} is no recipe:"
    assert [line.split(":")[0] for line in lines] == ["  data.train[0].uri", "  training.epochs", "  training.stepps"]


@pytest.mark.parametrize("text", ["a: [", "a: 1\n---\na: 2\n"])
def test_what_is_not_one_yaml_document_is_told_so(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{path} is not one YAML document: "):
        read_document(path)


def test_a_file_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml: No such file or directory"):
        read_document(tmp_path / "missing.yaml")
