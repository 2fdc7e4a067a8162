"""Call kubectl, for the few objects that `runyard local` itself reads and writes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runyard_trainer.contract.exits import UserError


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the rights of the instance's administrator."""

    binary: Path
    kubeconfig: Path

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Run it and return its stdout.

        Raises:
            UserError: it failed; the message ends with its stderr.
        """
        done = self._call(arguments, stdin)
        if done.returncode != 0:
            raise UserError(f"kubectl {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """Read an object or a list of them; None where there is none or the API server does not answer."""
        done = self._call(("get", *arguments, "-o", "json"), None)
        if done.returncode != 0:
            return None
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def apply(self, manifests: str) -> None:
        """Apply YAML documents, server-side."""
        flags = ("--server-side", "--force-conflicts", "--field-manager=runyard-local", "--filename=-")
        self.run("apply", *flags, stdin=manifests)

    def _call(self, arguments: tuple[str, ...], stdin: str | None) -> subprocess.CompletedProcess[str]:
        argv = [str(self.binary), f"--kubeconfig={self.kubeconfig}", "--request-timeout=30s", *arguments]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
