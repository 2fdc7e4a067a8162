"""Draw the tree of folders in docs/architecture.md: each with the first line of its `__init__` docstring.

    python scripts/draw_tree.py            write it
    python scripts/draw_tree.py --check    exit 1 if the page has another one

Folders stand in the order of their layers in pyproject.toml: each knows only those below it.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("trainer/runyard_trainer", "operator/runyard", "local/runyard_local")
PAGE = "docs/architecture.md"
BEGIN, END = "<!-- tree: written by `make generate` -->\n", "<!-- end of the tree -->\n"


def draw_tree(root: Path) -> str:
    ranks = read_ranks(root / "pyproject.toml")
    rows = [row for package in PACKAGES for row in list_folders(root / package, ranks)]
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"    {name:{width}}{text}\n" for name, text in rows)


def read_ranks(pyproject: Path) -> dict[str, int]:
    """Return the line of each module or folder in its package's layers, by dotted name; 0 is the top one."""
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    return {
        f"{each['containers'][0]}.{name.strip()}": number
        for each in contracts
        if each["type"] == "layers"
        for number, line in enumerate(each["layers"])
        for name in re.split("[|:]", line)
    }


def list_folders(folder: Path, ranks: dict[str, int], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield (indented name, what is in it) of a folder and of those in it."""
    dotted = f"{above}.{folder.name}".strip(".")
    indent = "  " * dotted.count(".")
    name = f"{indent}{folder.name}/" if above else f"{folder.parent.name}/{folder.name}/"
    yield name, read_first_line(folder / "__init__.py")
    inner = [init.parent for init in folder.glob("*/__init__.py")]
    for each in sorted(inner, key=lambda each: (ranks.get(f"{dotted}.{each.name}", 0), each.name)):
        yield from list_folders(each, ranks, dotted)


def read_first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"
    return docstring.splitlines()[0].rstrip(".")


def replace_tree(page: str, tree: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no place for the tree: put {BEGIN.strip()} and {END.strip()} into it")
    return f"{before}{BEGIN}\n{tree}\n{END}{after}"


def main(argv: list[str]) -> int:
    root = Path(__file__).resolve().parents[1]
    old = (root / PAGE).read_text()
    new = replace_tree(old, draw_tree(root))
    if "--check" in argv and new != old:
        print(f"{PAGE} draws another tree than the folders make: run `make generate`", file=sys.stderr)
        return 1
    (root / PAGE).write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
