"""Real training on a real S3 server with something in between: attempt after attempt, until the run is finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.prepare import prepare
from runyard_trainer.storage.base import StorageUnavailable

from tests.chaos.s3proxy import S3Proxy
from tests.ranks import pretraining
from tests.ranks.attempts import train_rank
from tests.ranks.run_ranks import Ended, end_ranks
from tests.s3server import S3Server

TOTAL_STEPS, EVERY_STEPS = 8, 2
MAX_ATTEMPTS = 40


@dataclass(frozen=True)
class PreparedBucket:
    """A bucket with prepared data."""

    server: S3Server
    name: str
    folder: Path

    def recipe(self, output: str, proxy: S3Proxy | None = None) -> Recipe:
        """Build a short run, whose way to the store leads through `proxy`."""
        body = pretraining.build_recipe(self.folder, output, steps=TOTAL_STEPS).model_dump(
            by_alias=True, exclude_none=True
        )
        storage = (proxy or self.server).storage.model_dump(by_alias=True, exclude_none=True)
        changes = {
            "output": {"uri": f"s3://{self.name}/{output}"},
            "storage": storage,
            "checkpoint": {"everySteps": EVERY_STEPS},
        }
        return Recipe.model_validate(body | changes)

    def place_data(self, output: str) -> None:
        """Leave at the output what prepare leaves there."""
        source = {"Bucket": self.name, "Key": "prepared/resolved.json"}
        self.server.client().copy_object(Bucket=self.name, Key=f"{output}/resolved.json", CopySource=source)

    @property
    def pid_file(self) -> Path:
        """The file with the process id of the rank that runs."""
        return self.folder / "scratch" / "pid"

    def read(self, key: str) -> bytes:
        return self.server.client().get_object(Bucket=self.name, Key=key)["Body"].read()

    def keys(self, prefix: str) -> list[str]:
        listed = self.server.client().list_objects_v2(Bucket=self.name, Prefix=prefix)
        return sorted(each["Key"] for each in listed["Contents"])

    def copy(self, source: str, target: str) -> None:
        """Copy all that lies below one output to another."""
        for key in self.keys(f"{source}/"):
            found = {"Bucket": self.name, "Key": key}
            new = target + key.removeprefix(source)
            self.server.client().copy_object(Bucket=self.name, Key=new, CopySource=found)

    def committed_step(self, output: str) -> int:
        """Return the step of the newest checkpoint; 0 where there is none."""
        client = self.server.client()
        try:
            head = json.loads(self.read(f"{output}/head.json"))
        except client.exceptions.NoSuchKey:
            return 0
        return int((head.get("checkpoint") or {}).get("step", 0))

    def digest_of_weights(self, output: str) -> str:
        return hashlib.sha256(self.read(f"{output}/model/model.safetensors")).hexdigest()


def prepare_bucket(server: S3Server, folder: Path) -> PreparedBucket:
    """Write the corpus and prepare it on the server; its credentials are in the environment."""
    pretraining.write_corpus(folder / "text")
    bucket = PreparedBucket(server, server.make_bucket(), folder)
    recipe = bucket.recipe("prepared")
    prepare(recipe, RunContext.from_environment({}, recipe))
    return bucket


def killable_rank(world: World, recipe: Recipe, scratch: Path, attempt: int, credentials: dict[str, str]) -> str:
    """Train as `train_rank` does, but leave the process id in the scratch folder, and return a UserError as well."""
    os.environ.update(credentials)
    (scratch / "pid").write_text(str(os.getpid()))
    try:
        return train_rank(world, recipe, attempt, {"RUNYARD_RUN_UID": "chaos", "TMPDIR": str(scratch)})
    except (StorageUnavailable, UserError) as reason:
        return f"{type(reason).__name__}: {reason}"


def run_attempt(bucket: PreparedBucket, recipe: Recipe, attempt: int) -> list[Ended]:
    """Return how its one rank ended. Each attempt has a new scratch folder, as each pod has."""
    scratch = bucket.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return end_ranks(killable_rank, 1, recipe, scratch, attempt, bucket.server.environment)


def run_to_the_end(
    bucket: PreparedBucket, recipe: Recipe, before: Callable[[int], None] = lambda _: None, *, first_attempt: int = 1
) -> list[list[Ended]]:
    """Run attempts until one is finished; what was committed is never lost. `before` gets each one's number."""
    output = recipe.output.uri.partition(f"{bucket.name}/")[2]
    ends: list[list[Ended]] = []
    committed = 0
    for attempt in range(first_attempt, first_attempt + MAX_ATTEMPTS):
        before(attempt)
        ends.append(run_attempt(bucket, recipe, attempt))
        assert bucket.committed_step(output) >= committed, ends
        committed = bucket.committed_step(output)
        if all(end.value == "finished" for end in ends[-1]):
            return ends
    raise AssertionError(ends)
