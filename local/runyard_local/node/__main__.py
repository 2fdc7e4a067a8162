"""`python -m runyard_local.node`: the agent of one node, started by `runyard local up`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from runyard_trainer.contract.exits import UserError

from runyard_local.node.agent import Settings, run_agent


def main() -> int:
    """Run the agent until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m runyard_local.node", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="directory of the instance")
    parser.add_argument("--name", required=True, help="name of the Node object")
    parser.add_argument("--index", type=int, required=True, help="number of the node: unique in the instance")
    parser.add_argument("--gpus", type=int, required=True, help="simulated GPUs")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run_agent(Settings(flags.state, flags.name, flags.index, flags.gpus, flags.kubeconfig)))
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 - it goes to the node's log
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
