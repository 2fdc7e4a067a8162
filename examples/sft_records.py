"""Make records for sft.yaml: the signature of a function as the input, its docstring's first line as the output.

    python examples/sft_records.py FOLDER | s3://bucket/prefix

    sft/docstrings.jsonl    in the format of Alpaca
        {"instruction": "Say what this function does.", "input": "def get_cache_token()",
         "output": "Returns the current ABC cache token."}

The same Python gives the same bytes.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from typing import Any

from corpora import documented_nodes, sources
from docstrings import main, to_jsonl

INSTRUCTION = "Say what this function does."

MAX_SIGNATURE_CHARACTERS = 80
MIN_SUMMARY_CHARACTERS = 20
MAX_SUMMARY_CHARACTERS = 120


def build_files() -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    found = {
        row["output"]: row
        for _, source in sources()
        for node in documented_nodes(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (row := _to_row(node))
    }
    rows = sorted(found.values(), key=lambda row: hashlib.blake2b(row["output"].encode()).digest())
    return {"sft/docstrings.jsonl": to_jsonl(rows)}


def _to_row(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any] | None:
    summary = (ast.get_docstring(node) or "").partition("\n")[0]
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    signature = f"{keyword} {node.name}({ast.unparse(node.args)})"
    is_short = MIN_SUMMARY_CHARACTERS <= len(summary) <= MAX_SUMMARY_CHARACTERS
    if not is_short or not summary.endswith(".") or len(signature) > MAX_SIGNATURE_CHARACTERS:
        return None
    return {"instruction": INSTRUCTION, "input": signature, "output": summary}


if __name__ == "__main__":
    sys.exit(main(build_files, "Build records for instruction tuning from the running Python."))
