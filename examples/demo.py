"""Pre-train a small language model, adapt it to source code, and show what that did: `make demo`.

    corpora from this Python ─> S3 ─> kubectl apply general.yaml ─> a model of English
                                                                     └─> kubectl apply code.yaml ─> a model of code

Needs an instance: `runyard local up`. Every call starts both runs anew, with an output of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from corpora import build_files, upload
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from runyard_local.instance import BUCKET, REGION, Instance, default_state_dir
from runyard_local.servers.s3server import read_or_make_keys
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Storage

EXAMPLES = Path(__file__).parent
RUNS = ("general", "code")
CORPORA = f"s3://{BUCKET}/demo/corpora"
STALL_S = 600
"""How long the status of a run may stay the same before the demo gives up."""

PLAIN_INTERVAL_S = 10.0
"""Time between two lines of progress where there is no terminal."""

PROMPT = "import os\n\n\ndef "

console = Console(highlight=False)


@dataclass(frozen=True)
class Local:
    """The instance that the demo runs on."""

    instance: Instance

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl and return its output.

        Raises:
            UserError: it failed; the message ends with its stderr.
        """
        done = subprocess.run(self._argv(*arguments), input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    @contextmanager
    def watch_status(self, name: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Give the run's status, now and each time it changes, until the watch ends by itself."""
        argv = self._argv("get", "trainingrun", name, "--watch", "--output", 'jsonpath={.status}{"\\n"}')
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                yield _read_statuses(process)
            finally:
                process.terminate()

    def path_of(self, uri: str) -> Path:
        """Return the path of an object or prefix: the S3 server stores plain files."""
        return self.instance.state / "s3" / uri.removeprefix("s3://")

    def _argv(self, *arguments: str) -> list[str]:
        return [str(self.instance.kubectl), f"--kubeconfig={self.instance.kubeconfig}", *arguments]


def _read_statuses(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    output = process.stdout

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=STALL_S)
        except queue.Empty:
            raise UserError(f"nothing has changed for {STALL_S // 60} minutes") from None
        if not line:
            return
        if line.strip():
            yield json.loads(line)


# ------------------------------------------------------------------------------------------------------------ one run


def build_manifest(name: str, output: str) -> dict[str, Any]:
    """Build the run in `<name>.yaml`, with its models below `output`."""
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    spec = manifest["spec"]
    spec["output"]["uri"] = f"{output}/{name}"
    if "uri" in spec["model"]:
        spec["model"]["uri"] = f"{output}/general/model"
    return manifest


def follow(local: Local, name: str) -> dict[str, Any]:
    """Show the run's progress until it ends, and return its result.

    Raises:
        UserError: it failed; the message has the reason and the last lines of its log.
    """
    with show_progress(name) as show:
        while True:
            with local.watch_status(name) as statuses:
                for status in statuses:
                    show(status)
                    if _holds(status, "Failed"):
                        raise UserError(f"run {name} failed: {_explain(status)}")
                    if _holds(status, "Succeeded"):
                        return dict(status["result"])


def _holds(status: dict[str, Any], condition: str) -> bool:
    return any(found["type"] == condition and found["status"] == "True" for found in status.get("conditions", []))


def _explain(status: dict[str, Any]) -> str:
    failure = status.get("lastFailure", {})
    where = f" (rank {failure['rank']} of attempt {failure.get('attempt')})" if "rank" in failure else ""
    tail = failure.get("logTail", "").strip()
    return f"{failure.get('reason', 'Error')}{where}: {failure.get('message', '')}" + (f"\n{tail}" if tail else "")


@contextmanager
def show_progress(name: str) -> Iterator[Any]:
    """Give a function that shows a status: as a moving line on a terminal, as a line now and then elsewhere."""
    if not console.is_terminal:
        yield PlainProgress(name)
        return
    columns = (TextColumn(f"[bold]{name:8}[/]"), TextColumn("{task.fields[phase]:10}"), BarColumn(24))
    with Progress(*columns, TextColumn("{task.fields[numbers]}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(name, total=None, phase="Pending", numbers="")

        def show(status: dict[str, Any]) -> None:
            steps = status.get("progress", {})
            total = steps.get("totalSteps") or None
            phase = status.get("phase", "Pending")
            progress.update(task, total=total, completed=steps.get("step", 0), phase=phase, numbers=describe(status))

        yield show


class PlainProgress:
    """Progress as lines of a log: at each change of phase, and every 10 s."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._phase = ""
        self._printed_at = float("-inf")

    def __call__(self, status: dict[str, Any]) -> None:
        """Print a line if it is time for one."""
        phase, now = status.get("phase", "Pending"), time.monotonic()
        if phase != self._phase or now - self._printed_at >= PLAIN_INTERVAL_S:
            self._phase, self._printed_at = phase, now
            console.print(f"{self._name}  {phase:10}  {describe(status)}", soft_wrap=True)


def describe(status: dict[str, Any]) -> str:
    """Format step, loss and ETA, as far as they are known."""
    steps = status.get("progress", {})
    parts = []
    if steps.get("totalSteps"):
        parts.append(f"step {steps.get('step', 0)}/{steps['totalSteps']}")
    if steps.get("loss"):
        parts.append(f"loss {float(steps['loss']):.3f}")
    if steps.get("eta"):
        parts.append(f"ETA {steps['eta']}")
    if status.get("attempt", 0) > 1:
        parts.append(f"attempt {status['attempt']}")
    return "  ".join(parts)


# ------------------------------------------------------------------------------------------------------------ the end


def build_table(result: dict[str, Any]) -> Table:
    """Build the table of losses before and after, for both texts, in nats per token and bits per byte."""
    table = Table("held-out text", "measure", title="Adapting it to source code", title_justify="left")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    before, after = result.get("before", {}), result.get("after", {})
    for title, key in (("domain: source code", "domain"), ("general: English", "general")):
        for measure, field in (("nats per token", f"{key}Loss"), ("bits per byte", f"{key}BitsPerByte")):
            change = after[field] - before[field]
            colour = "green" if change < 0 else "red"
            table.add_row(
                title, measure, f"{before[field]:.3f}", f"{after[field]:.3f}", f"[{colour}]{change:+.3f}[/{colour}]"
            )
    return table


def write_sample(model_folder: Path) -> str:
    """Let the adapted model continue `PROMPT` with its likeliest tokens; return that as one line."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when transformers is imported
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    written = model.generate(
        **tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=40, do_sample=False, repetition_penalty=1.2
    )
    return " ⏎ ".join(line for line in tokenizer.decode(written[0], skip_special_tokens=True).splitlines() if line)


def run_demo(local: Local) -> None:
    """Build the corpora, run both runs, and print what they have changed.

    Raises:
        UserError: a step failed.
    """
    started = time.monotonic()
    keys = read_or_make_keys(local.instance)
    os.environ |= {"AWS_ACCESS_KEY_ID": keys.access_key_id, "AWS_SECRET_ACCESS_KEY": keys.secret_access_key}
    storage = Storage(endpoint=local.instance.s3_endpoint, region=REGION, addressing="path")
    with console.status("Building two corpora from this Python"):
        files = build_files()
        upload(files, CORPORA, storage)
    size_mb = sum(map(len, files.values())) / 1e6
    console.print(f"Corpora: {len(files)} files, {size_mb:.1f} MB of English and of source code, at {CORPORA}")

    output = f"s3://{BUCKET}/demo/{datetime.now(UTC):%Y%m%d-%H%M%S}"
    local.kubectl("delete", "trainingrun", *RUNS, "--ignore-not-found", "--cascade=foreground", "--timeout=120s")
    result: dict[str, Any] = {}
    for name in RUNS:
        console.print(f"$ kubectl apply -f examples/{name}.yaml")
        local.kubectl("apply", "--filename", "-", text=yaml.safe_dump(build_manifest(name, output)))
        result = follow(local, name)

    console.print(build_table(result))
    for title, uri in (("model", result["uri"]), ("report", result["report"])):
        console.print(f"{title:7} {uri}\n        {local.path_of(uri)}", soft_wrap=True)
    with console.status("Asking the adapted model to write"):
        sample = write_sample(local.path_of(result["uri"]))
    console.print("writes ", sample, markup=False, soft_wrap=True)
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


def load_instance(state: Path) -> Instance:
    """Read the instance in a directory.

    Raises:
        UserError: there is none.
    """
    instance = Instance.load(state)
    if instance is None:
        raise UserError(f"there is no instance in {state}: make one with `runyard local up`")
    return instance


def main() -> int:
    """Run the demo; return exit status 0 when both runs have succeeded."""
    parser = argparse.ArgumentParser(description="Pre-train and adapt two small models on a local control plane.")
    parser.add_argument("--dir", type=Path, default=default_state_dir(), help="the instance (default: %(default)s)")
    state = parser.parse_args().dir.expanduser().absolute()
    try:
        run_demo(Local(load_instance(state)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped watching. The run goes on: see `kubectl get trainingruns`.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
