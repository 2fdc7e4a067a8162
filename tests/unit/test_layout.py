"""scripts/check_layout.py and scripts/draw_tree.py: each broken rule is found and named, in a small project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PACKAGES = {"trainer": "runyard_trainer", "operator": "runyard", "local": "runyard_local"}
INNER = ("runyard_trainer.data", "runyard.decide")
CODE = "def answer():\n    return 42\n\n\ndef ask():\n    return answer()\n"
PAGE = "# A page\n\n<!-- tree: written by `make generate` -->\n<!-- end of the tree -->\n\nThe end.\n"


def write_layers(root: Path, exhaustive: str = "true", num_layers: int = 2) -> None:
    layers = [f"top_{number}" for number in range(num_layers - 1)] + ["subject"]
    contracts = [
        f'[[tool.importlinter.contracts]]\ntype = "layers"\ncontainers = ["{container}"]\n'
        f"exhaustive = {exhaustive}\nlayers = {layers}\n"
        for container in [*PACKAGES.values(), *INNER]
    ]
    (root / "pyproject.toml").write_text("\n".join(contracts))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which no rule is broken."""
    for folder, package in PACKAGES.items():
        subject = tmp_path / folder / package / "subject"
        subject.mkdir(parents=True)
        (subject.parent / "__init__.py").write_text('"""A package."""\n')
        (subject / "__init__.py").write_text('"""A subject.\n\n    question ─> answer\n"""\n')
        for name in ("answers.py", "questions.py"):
            (subject / name).write_text(CODE)
    tests = tmp_path / "tests" / "unit" / "operator" / "subject"
    tests.mkdir(parents=True)
    (tests / "test_answers_wrong.py").write_text("from tests.builders import build\n")
    for name in ("check_layout.py", "draw_tree.py"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / name, tmp_path / "scripts" / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "architecture.md").write_text(PAGE)
    write_layers(tmp_path)
    return tmp_path


def run(project: Path, script: str, *args: str) -> tuple[int, str]:
    argv = [sys.executable, str(project / "scripts" / script), *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_a_project_that_keeps_the_rules_passes(project: Path) -> None:
    assert run(project, "check_layout.py") == (0, "")


def subject(project: Path) -> Path:
    return project / "operator" / "runyard" / "subject"


def fill_a_folder(project: Path) -> None:
    for number in range(12):
        (subject(project) / f"more_{number}.py").write_text(CODE)


def write_code_into_an_init(project: Path) -> None:
    (subject(project) / "__init__.py").write_text('"""A subject."""\n\nANSWER = 42\n')


def draw_a_long_flow(project: Path) -> None:
    (subject(project) / "__init__.py").write_text('"""A subject.\n\n' + "    question ─> answer\n" * 11 + '"""\n')


def write_a_long_file(project: Path) -> None:
    (subject(project) / "answers.py").write_text(CODE + "\n" * 395)


def write_long_files(project: Path) -> None:
    for name in ("answers.py", "questions.py"):
        (subject(project) / name).write_text(CODE + "\n" * 145)


def write_long_functions(project: Path) -> None:
    body = "    answer = 42\n" * 7 + "    return answer\n"
    (subject(project) / "answers.py").write_text("".join(f"def answer_{i}():\n{body}" for i in range(3)))


def write_a_very_long_function(project: Path) -> None:
    short = "".join(f"def answer_{i}():\n    return {i}\n" for i in range(40))
    (subject(project) / "answers.py").write_text("def ask():\n" + "    print(42)\n" * 110 + short)


def name_a_test_after_nothing(project: Path) -> None:
    (project / "tests" / "unit" / "operator" / "subject" / "test_answering.py").write_text("")


def import_from_a_test(project: Path) -> None:
    text = "from tests.unit.operator.subject.test_answers_wrong import build\n"
    (project / "tests" / "test_story.py").write_text(text)


def import_a_test(project: Path) -> None:
    (project / "tests" / "test_story.py").write_text("from tests.unit.operator.subject import test_answers_wrong\n")


def leave_modules_out_of_layers(project: Path) -> None:
    write_layers(project, exhaustive="false")


def write_many_layers(project: Path) -> None:
    write_layers(project, num_layers=8)


@pytest.mark.parametrize(
    ("break_a_rule", "want"),
    [
        (fill_a_folder, "operator/runyard/subject: 15 Python files, at most 14"),
        (write_code_into_an_init, "operator/runyard/subject/__init__.py: must hold a docstring and nothing else"),
        (draw_a_long_flow, "operator/runyard/subject/__init__.py: draws its flow in 11 lines, at most 10"),
        (write_a_long_file, "operator/runyard/subject/answers.py: 401 lines, at most 400"),
        (write_long_files, "operator/runyard: files, median 151 lines, at most 150"),
        (write_long_functions, "operator/runyard: functions, median 9 lines, at most 7"),
        (write_a_very_long_function, "operator/runyard/subject/answers.py:1 ask: 111 lines, at most 110"),
        (name_a_test_after_nothing, "test_answering.py: names no module of operator/runyard/subject"),
        (import_from_a_test, "tests/test_story.py: imports from a test file"),
        (import_a_test, "tests/test_story.py: imports from a test file"),
        (leave_modules_out_of_layers, "pyproject.toml: the layers of runyard may leave modules out"),
        (write_many_layers, "pyproject.toml: runyard has 8 lines of layers, at most 7"),
    ],
)
def test_each_broken_rule_is_named_with_its_place(
    project: Path, break_a_rule: Callable[[Path], None], want: str
) -> None:
    break_a_rule(project)
    returncode, errors = run(project, "check_layout.py")
    assert returncode == 1
    assert want in errors
    assert all(line.count(": ") >= 2 for line in errors.splitlines()), "path: what is wrong: what to do"


def test_the_tree_is_drawn_from_the_docstrings_and_a_stale_one_is_refused(project: Path) -> None:
    page = project / "docs" / "architecture.md"
    assert run(project, "draw_tree.py", "--check")[0] == 1
    assert run(project, "draw_tree.py") == (0, "")
    assert "    operator/runyard/         A package\n      subject/                A subject\n" in page.read_text()
    assert page.read_text().endswith("\n\nThe end.\n")
    assert run(project, "draw_tree.py", "--check") == (0, "")
    (subject(project) / "__init__.py").write_text('"""Another subject."""\n')
    assert run(project, "draw_tree.py", "--check")[0] == 1
