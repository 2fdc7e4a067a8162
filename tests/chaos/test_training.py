"""Training while its store misbehaves or its ranks die: it ends with the bits of the undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from runyard_trainer.storage import s3 as s3_storage

from tests.chaos.s3proxy import Request, S3Proxy, draw_weather, serve_s3_proxy
from tests.chaos.training import EVERY_STEPS, TOTAL_STEPS, PreparedBucket, prepare_bucket, run_attempt, run_to_the_end
from tests.s3server import S3Server, choose_server, start_s3
from tests.waiting import wait_until


@dataclass
class Outage:
    """A server that is killed at one moment of a run, and started again when it has been missed."""

    server: S3Server
    folder: Path
    process: subprocess.Popen[bytes]

    def begin(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def end(self) -> None:
        self.process = start_s3(self.server, self.folder)


MOST_WRITES = 40
"""Of an undisturbed run, and some more."""
MISSED = 8
"""Requests in vain before the server is back: more than boto makes for one."""


@pytest.fixture(scope="module")
def s3_outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """Start a server of this module's own, that can be killed."""
    folder = tmp_path_factory.mktemp("s3")
    server = choose_server()
    outage = Outage(server, folder, start_s3(server, folder))
    yield outage
    outage.process.kill()
    outage.process.wait(30)


@pytest.fixture(scope="module")
def bucket(s3_outage: Outage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedBucket]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_outage.server.environment.items():
            patch.setenv(name, value)
        s3_storage.open_client.cache_clear()  # it has read another test's credentials
        yield prepare_bucket(s3_outage.server, tmp_path_factory.mktemp("bucket"))
        s3_storage.open_client.cache_clear()


@pytest.fixture(scope="module")
def want(bucket: PreparedBucket) -> str:
    """Return the digest of the undisturbed run's weights."""
    bucket.place_data("undisturbed")
    assert [end.value for end in run_attempt(bucket, bucket.recipe("undisturbed"), 1)] == ["finished"]
    return bucket.digest_of_weights("undisturbed")


def weather_a_storm(bucket: PreparedBucket, seed: int) -> str:
    """Train through a storm in which the rank is killed once; return the digest of the weights."""
    output = f"storm-{seed}"
    bucket.place_data(output)
    number = random.Random(f"kill/{seed}").randint(2, MOST_WRITES)
    with serve_s3_proxy(bucket.server.endpoint) as proxy:
        proxy.weather = draw_weather(seed)
        kill_after_write(proxy, bucket.pid_file, number)
        ends = run_to_the_end(bucket, bucket.recipe(output, proxy))
        assert proxy.played
    assert [end.error for [end] in ends] in (["exit code -9", None], [None]), ends
    return bucket.digest_of_weights(output)


@pytest.mark.parametrize("seed", range(2))
def test_a_store_that_fails_and_breaks_off_costs_no_attempt_and_no_bit(
    bucket: PreparedBucket, want: str, seed: int
) -> None:
    assert weather_a_storm(bucket, seed) == want


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_so_do_many_storms(bucket: PreparedBucket, want: str) -> None:
    broken = [seed for seed in range(2, 42) if weather_a_storm(bucket, seed) != want]
    assert not broken


def kill_after_write(proxy: S3Proxy, pid_file: Path, number: int) -> None:
    """Kill the rank when its n-th write from now on is on the store, and it does not know that yet."""
    seen = [0]

    def count(_: Request) -> None:
        seen[0] += 1
        if seen[0] == number:
            with suppress(ProcessLookupError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)

    proxy.on_commit = count


def test_a_rank_that_is_killed_two_writes_later_each_time_loses_no_commit_and_no_bit(
    bucket: PreparedBucket, want: str
) -> None:
    """So it dies in each phase: of the claim, of each file, manifest and swap of a save, of the export."""
    bucket.place_data("killed")
    with serve_s3_proxy(bucket.server.endpoint) as proxy:
        recipe = bucket.recipe("killed", proxy)
        ends = run_to_the_end(bucket, recipe, lambda attempt: kill_after_write(proxy, bucket.pid_file, 2 * attempt - 1))
    assert {end.error for [end] in ends[:-1]} == {"exit code -9"}
    assert bucket.digest_of_weights("killed") == want


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_rank_may_be_killed_after_any_of_its_writes(bucket: PreparedBucket, want: str) -> None:
    for number in range(1, MOST_WRITES + 1):
        output = f"killed-{number}"
        bucket.place_data(output)
        with serve_s3_proxy(bucket.server.endpoint) as proxy:
            kill_after_write(proxy, bucket.pid_file, number)
            ends = run_to_the_end(bucket, bucket.recipe(output, proxy))
        assert [end.error for [end] in ends] in (["exit code -9", None], [None]), (number, ends)
        assert bucket.digest_of_weights(output) == want, number


MOMENTS = {
    "it reads what was prepared": lambda request: request.method == "GET" and "/dataset.json" in request.key,
    "it saves": lambda request: request.method == "PUT" and "/step-00000004" in request.key,
    "it exports": lambda request: request.method == "PUT" and "/model.safetensors" in request.key,
}


def test_a_store_that_is_killed_and_comes_back_at_each_stage_costs_no_attempt_and_no_bit(
    bucket: PreparedBucket, want: str, s3_outage: Outage
) -> None:
    bucket.place_data("outage")
    struck: list[str] = []

    def weather(request: Request) -> None:
        moment = next((name for name, is_it in MOMENTS.items() if is_it(request) and name not in struck), None)
        if moment is not None:
            struck.append(moment)
            s3_outage.begin()  # the request finds nobody there

    with serve_s3_proxy(bucket.server.endpoint) as proxy, ThreadPoolExecutor() as pool:
        proxy.weather = weather
        ending = pool.submit(run_attempt, bucket, bucket.recipe("outage", proxy), 1)
        for number in range(1, len(MOMENTS) + 1):
            wait_until(lambda number=number: proxy.counts["unreachable"] >= MISSED * number, 120)
            s3_outage.end()
            proxy.counts["unreachable"] = MISSED * number
        assert [end.value for end in ending.result(240)] == ["finished"]
    assert struck == list(MOMENTS)
    assert bucket.digest_of_weights("outage") == want


# ------------------------------------------------------------------------------------------------------ damage at rest


@pytest.fixture(scope="module")
def interrupted(bucket: PreparedBucket) -> str:
    """Leave an output with two checkpoints whose attempt was killed."""
    bucket.place_data("interrupted")
    num_swaps = [0]

    def count(request: Request) -> None:
        num_swaps[0] += request.key.endswith("/head.json")
        if num_swaps[0] == 1 + 3:  # the claim and three commits
            os.kill(int(bucket.pid_file.read_text()), signal.SIGKILL)

    with serve_s3_proxy(bucket.server.endpoint) as proxy:
        proxy.on_commit = count
        [end] = run_attempt(bucket, bucket.recipe("interrupted", proxy), 1)
    assert end.error == "exit code -9"
    assert bucket.committed_step("interrupted") == 3 * EVERY_STEPS
    return "interrupted"


def resume_after_damage(bucket: PreparedBucket, interrupted: str, seed: int) -> str:
    """Flip a bit of a random byte of the newest checkpoint, go on, and return the digest of the weights."""
    output, chance = f"damaged-{seed}", random.Random(seed)
    bucket.copy(interrupted, output)
    folder = f"{output}/checkpoints/step-{3 * EVERY_STEPS:08d}-e1/"
    key = chance.choice(bucket.keys(folder))
    data = bytearray(bucket.read(key))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    bucket.server.client().put_object(Bucket=bucket.name, Key=key, Body=bytes(data))
    [end] = run_attempt(bucket, bucket.recipe(output), 2)
    assert end.value == "finished", (seed, key, end)
    return bucket.digest_of_weights(output)


@pytest.mark.parametrize("seed", range(2))
def test_a_checkpoint_with_a_flipped_bit_is_not_loaded_and_costs_no_bit(
    bucket: PreparedBucket, want: str, interrupted: str, seed: int
) -> None:
    assert resume_after_damage(bucket, interrupted, seed) == want


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_neither_do_many_flipped_bits(bucket: PreparedBucket, want: str, interrupted: str) -> None:
    broken = [seed for seed in range(2, 42) if resume_after_damage(bucket, interrupted, seed) != want]
    assert not broken


# ----------------------------------------------------------------------------------------------------------- full disk

FILL = """
import os, sys
from pathlib import Path
import runyard_trainer.train as train
from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from tests.chaos.training import killable_rank

scratch, export_run = Path(sys.argv[2]), train.export_run

def export_on_a_full_disk(*arguments):
    with (scratch / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass
    return export_run(*arguments)

if sys.argv[4] == "export":
    train.export_run = export_on_a_full_disk
print(killable_rank(World(), Recipe.model_validate_json(sys.argv[1]), scratch, int(sys.argv[3]), {}))
"""


def run_on_a_small_disk(bucket: PreparedBucket, output: str, attempt: int, size: str, fault: str = "") -> str:
    """Return how an attempt ends whose scratch is a file system of that size."""
    scratch = bucket.pid_file.parent
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    mount = f'mount -t tmpfs -o size={size} none {scratch} && exec "$0" -c "$@"'
    arguments = [FILL, bucket.recipe(output).to_json(), str(scratch), str(attempt), fault]
    argv = ["unshare", "-Urm", "sh", "-c", mount, sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", "operator", "trainer"])}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, env=environment, check=False)
    return done.stdout + done.stderr


@pytest.mark.full  # two processes that import torch by themselves
def test_a_full_disk_is_told_in_words_wherever_it_is_met_and_costs_no_commit_and_no_bit(
    bucket: PreparedBucket, want: str, interrupted: str
) -> None:
    """As a checkpoint is read, and as the model is written; `test_checkpointer` has the staging."""
    bucket.copy(interrupted, "full")
    assert "disk is too full to read a checkpoint" in run_on_a_small_disk(bucket, "full", 2, "300k")
    assert bucket.committed_step("full") == 3 * EVERY_STEPS
    assert "disk is too full to write the model" in run_on_a_small_disk(bucket, "full", 3, "5m", "export")
    assert bucket.committed_step("full") == TOTAL_STEPS
    run_to_the_end(bucket, bucket.recipe("full"), first_attempt=4)
    assert bucket.digest_of_weights("full") == want
