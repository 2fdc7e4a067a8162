"""Find the programs that an instance is made of, each in one pinned version, or build them into the cache.

A program is taken from $RUNYARD_BIN (the user vouches for its version), from the cache, or from PATH if it prints the
pinned version. `gobuild` builds missing ones from source, pinned by the go.sum in `gomods/`; each reaches the cache in
one step, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runyard_local.console import CONSOLE
from runyard_local.programs.cache import cache_dir, lock_folder, make_scratch
from runyard_local.programs.gobuild import Build, build_programs

_KUBERNETES_FLAGS = tuple(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", "v1.37.2"), ("gitMajor", "1"), ("gitMinor", "37"), ("gitTreeState", "clean"))
)


@dataclass(frozen=True)
class Module:
    """A Go module, and the programs that are built from it."""

    name: str
    version: str
    packages: Mapping[str, str]
    """Import path of each program."""
    linker_flags: tuple[str, ...] = ()
    gomods: Path = Path(__file__).parent / "gomods"
    """The folder that holds the module's folder."""


MODULES = (
    Module("etcd", "3.7.3", {"etcd": "."}),
    Module(
        "versitygw", "1.8.0", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}, ("-X main.Version=1.8.0",)
    ),
    Module(
        "helm",
        "3.22.0",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        ("-X helm.sh/helm/v3/internal/version.version=v3.22.0",),
    ),
    Module(
        "kubernetes",
        "1.37.2",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        _KUBERNETES_FLAGS,
    ),
)

_VERSION_ARGUMENTS = {"kubectl": ("version", "--client"), "helm": ("version",)}
"""Arguments that make a program print its version, where these are not --version."""


@dataclass(frozen=True)
class Binaries:
    """The paths of all programs."""

    etcd: Path
    apiserver: Path
    controller_manager: Path
    scheduler: Path
    kubectl: Path
    versitygw: Path
    helm: Path


def find_or_build() -> Binaries:
    """Find every program, and build those that are missing.

    Raises:
        UserError: one could not be built.
    """
    found = {program: path for module in MODULES for program, path in find_or_build_module(module).items()}
    return Binaries(
        etcd=found["etcd"],
        apiserver=found["kube-apiserver"],
        controller_manager=found["kube-controller-manager"],
        scheduler=found["kube-scheduler"],
        kubectl=found["kubectl"],
        versitygw=found["versitygw"],
        helm=found["helm"],
    )


def find_or_build_module(module: Module) -> dict[str, Path]:
    """Find each program of one module, and build those that are missing.

    Raises:
        UserError: one could not be built.
    """
    found = {program: _find(module, program) for program in module.packages}
    missing = [program for program, path in found.items() if path is None]
    built = _build(module, missing) if missing else {}
    return {program: path or built[program] for program, path in found.items()}


def _find(module: Module, program: str) -> Path | None:
    named = os.environ.get("RUNYARD_BIN")
    own = [Path(named).expanduser().absolute() / program] if named else []
    for path in (*own, _cached(module, program)):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    on_path = shutil.which(program)
    return Path(on_path) if on_path and _prints_version(module.version, program, on_path) else None


def _cached(module: Module, program: str) -> Path:
    return cache_dir() / "bin" / f"{module.name}-{module.version}" / program


def _prints_version(version: str, program: str, path: str) -> bool:
    argv = [path, *_VERSION_ARGUMENTS.get(program, ("--version",))]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return re.search(rf"(?<![\d.]){re.escape(version)}(?![\w.+-])", done.stdout) is not None


def _build(module: Module, programs: list[str]) -> dict[str, Path]:
    folder = cache_dir() / "bin" / f"{module.name}-{module.version}"
    with lock_folder(folder):
        missing = [program for program in programs if not _cached(module, program).exists()]
        if missing:
            CONSOLE.print(f"Building {', '.join(missing)} {module.version}: once, then it is kept in {folder}")
            with make_scratch(folder) as scratch:
                packages = [module.packages[program] for program in missing]
                build_programs(Build(module.gomods / module.name, packages, module.linker_flags, scratch))
                folder.mkdir(exist_ok=True)
                for program in missing:
                    (scratch / program).replace(folder / program)
    return {program: folder / program for program in programs}
