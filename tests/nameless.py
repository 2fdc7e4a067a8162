"""Programs under a uid that has no name, in a folder that they cannot write to: so they run in a container.

`USER 10001` of an image makes no entry in its /etc/passwd, and OpenShift picks uids that no image knows. Like the local
control plane this needs user namespaces; where they are forbidden `unshare` says so, and the test fails with that.
"""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("USER", "LOGNAME", "LNAME", "USERNAME")
"""Where getpass looks before it asks for the name of the uid."""


@dataclass(frozen=True)
class Nameless:
    """A uid and a gid for a program. Files of the one who runs the tests are its own."""

    uid: int
    gid: int

    def prefix(self, folder: Path) -> list[str]:
        """Return what to put before a command; its HOME and the folder in which it starts are made in `folder`."""
        with pytest.raises(KeyError):
            pwd.getpwuid(self.uid)
        home, read_only = folder / "home", folder / "read-only"
        home.mkdir(exist_ok=True)
        read_only.mkdir(exist_ok=True, mode=0o555)
        forget = [word for name in _NAMES for word in ("-u", name)]
        unshare = ["unshare", "--user", f"--map-user={self.uid}", f"--map-group={self.gid}"]
        return [*unshare, "env", f"--chdir={read_only}", *forget, f"HOME={home}"]


NAMELESS = {"the image's": Nameless(10001, 10001), "an arbitrary one in group 0": Nameless(1_000_650_000, 0)}
