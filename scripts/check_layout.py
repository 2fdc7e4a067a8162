"""Check that the code lies as CONTRIBUTING.md says: folders, layers, `__init__` files, sizes, and where tests are.

    python scripts/check_layout.py      print the sizes and every broken rule; exit 1 if one is broken

Parse files only: nothing of the project is imported, so any Python 3.11 will do.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

PACKAGES = {"trainer": "runyard_trainer", "operator": "runyard", "local": "runyard_local"}  # folder: package in it
MAX_LAYERS = {"runyard_trainer": 11, "runyard": 7, "runyard_local": 7, "runyard_trainer.data": 3, "runyard.decide": 7}
"""By package or folder that must have layers: the most lines of them."""

MAX_FILES_IN_FOLDER = 14
MAX_FLOW_LINES = 10
MAX_FILE_LINES, MAX_MEDIAN_FILE_LINES = 400, 150
MAX_FUNCTION_LINES, MAX_P95_FUNCTION_LINES, MAX_MEDIAN_FUNCTION_LINES = 110, 25, 7


def check_layout(root: Path) -> list[str]:
    """Return every broken rule as `path: what is wrong: what to do`."""
    packages = [root / folder / package for folder, package in PACKAGES.items()]
    problems = list(check_layers(root / "pyproject.toml"))
    for package in packages:
        files, functions = read_sizes(package)
        print(f"{package.name}: {describe(files)} lines a file, {describe(functions)} lines a function")
        problems += check_sizes(package, files, functions)
        for folder in sorted({path.parent for path in package.rglob("*.py")}):
            problems += check_folder(folder)
    problems += check_test_names(root)
    problems += check_test_imports(root)
    return [problem.removeprefix(f"{root}/") for problem in problems]


def check_layers(pyproject: Path) -> Iterator[str]:
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    layers = {each["containers"][0]: each for each in contracts if each["type"] == "layers"}
    for container, most in MAX_LAYERS.items():
        if container not in layers:
            yield f"{pyproject}: {container} has no layers: write an import-linter contract of type layers for it"
        elif not layers[container].get("exhaustive"):
            yield f"{pyproject}: the layers of {container} may leave modules out: add exhaustive = true"
        elif (found := len(layers[container]["layers"])) > most:
            yield f"{pyproject}: {container} has {found} lines of layers, at most {most}: join layers into one line"


def check_folder(folder: Path) -> Iterator[str]:
    """Yield what is wrong with one folder: too many files, or an `__init__` that is more than a short docstring."""
    if (found := len(list(folder.glob("*.py")))) > MAX_FILES_IN_FOLDER:
        yield f"{folder}: {found} Python files, at most {MAX_FILES_IN_FOLDER}: make a folder by subject"
    init = folder / "__init__.py"
    if not init.exists():
        yield f"{init}: missing: say in it what the folder is for"
        return
    tree = ast.parse(init.read_text())
    docstring = ast.get_docstring(tree, clean=False)
    if docstring is None or len(tree.body) > 1:
        yield f"{init}: must hold a docstring and nothing else: move code into a module"
    if docstring and (flow := sum(line.startswith("    ") for line in docstring.splitlines())) > MAX_FLOW_LINES:
        yield f"{init}: draws its flow in {flow} lines, at most {MAX_FLOW_LINES}: leave out what names say"


def read_sizes(package: Path) -> tuple[dict[Path, int], dict[str, int]]:
    """Return lines by file, without `__init__`, and lines by function as `path:line name`."""
    files, functions = {}, {}
    for path in sorted(package.rglob("*.py")):
        text = path.read_text()
        if path.name != "__init__.py":
            files[path] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{path}:{node.lineno} {node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    return files, functions


def describe(sizes: Mapping[Any, int]) -> str:
    return f"median {median(sizes.values()):g}, p95 {find_p95(sizes):g}, longest {max(sizes.values())}"


def find_p95(sizes: Mapping[Any, int]) -> float:
    return quantiles(sizes.values(), n=20)[-1]


def check_sizes(package: Path, files: Mapping[Path, int], functions: Mapping[str, int]) -> Iterator[str]:
    for path, lines in files.items():
        if lines > MAX_FILE_LINES:
            yield f"{path}: {lines} lines, at most {MAX_FILE_LINES}: move one subject into a file of its own"
    for place, lines in functions.items():
        if lines > MAX_FUNCTION_LINES:
            yield f"{place}: {lines} lines, at most {MAX_FUNCTION_LINES}: give a part of it a name"
    for what, found, most in (
        ("files, median", median(files.values()), MAX_MEDIAN_FILE_LINES),
        ("functions, median", median(functions.values()), MAX_MEDIAN_FUNCTION_LINES),
        ("functions, p95", find_p95(functions), MAX_P95_FUNCTION_LINES),
    ):
        if found > most:
            yield f"{package}: {what} {found:g} lines, at most {most}: split the longest"


def check_test_names(root: Path) -> Iterator[str]:
    """Yield unit tests that name no module of the folder that they mirror: `test_<module>[_<what>].py`."""
    for package, name in PACKAGES.items():
        tests = root / "tests" / "unit" / package
        for test in sorted(tests.rglob("test_*.py")):
            folder = root / package / name / test.parent.relative_to(tests)
            subject = f"{test.stem.removeprefix('test_')}_"
            if not any(subject.startswith(f"{module.stem.strip('_')}_") for module in folder.glob("*.py")):
                yield f"{test}: names no module of {folder.relative_to(root)}: call it test_<module>[_<what>].py"


def check_test_imports(root: Path) -> Iterator[str]:
    """Yield files of tests that import from a test file."""
    for test in sorted((root / "tests").rglob("*.py")):
        if imports_a_test(test):
            yield f"{test}: imports from a test file: move what both use into a module that is no test"


def imports_a_test(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            modules = [f"{module}.{name}" for name in names] if module.startswith("tests") else names
            if any(part.startswith("test_") for each in modules for part in each.split(".") if "tests" in each):
                return True
    return False


if __name__ == "__main__":
    broken = check_layout(Path(__file__).resolve().parents[1])
    print("\n".join(broken), file=sys.stderr)
    sys.exit(bool(broken))
