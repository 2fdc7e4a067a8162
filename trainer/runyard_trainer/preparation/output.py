"""Claim a run's output, and keep it apart from what the run reads."""

from __future__ import annotations

import json

from runyard_trainer.context import RunContext
from runyard_trainer.contract.base import UriUse, iterate_values
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.storage.base import Location, NotFound, PreconditionFailed


def check_apart(recipe: Recipe) -> None:
    """Refuse an output among the text or around the model: a run would read what it writes, or overwrite it."""
    output = recipe.output.uri.rstrip("/") + "/"
    for field, uri in iterate_values(recipe, UriUse.INPUT):
        if output.startswith(uri.rstrip("/") + "/"):
            raise UserError(f"output.uri {recipe.output.uri} lies within {field} {uri}: write elsewhere")
    if recipe.model.uri is not None and (recipe.model.uri.rstrip("/") + "/").startswith(output):
        raise UserError(f"model.uri {recipe.model.uri} lies within output.uri {recipe.output.uri}: write elsewhere")


def claim_output(output: Location, recipe: Recipe, context: RunContext) -> None:
    """Write run.json, which says whose output this is, unless it says already that it is this run's.

    Raises:
        UserError: OUTPUT_TAKEN: it is another run's, and the recipe does not take it over.
    """
    claim = output / "run.json"
    owner = {"uid": context.run_uid, "namespace": context.namespace, "name": context.run_name}
    ours = json.dumps(owner).encode()
    is_fenced = recipe.storage.fencing == "conditional-writes"
    try:
        found = claim.get()
    except NotFound:
        try:
            claim.put(ours, if_none_match=is_fenced)
        except PreconditionFailed:  # another run claimed it just now: see whose it is
            claim_output(output, recipe, context)
        return
    if _owner_of(found.data).get("uid") == context.run_uid:
        return
    if not recipe.output.take_over:
        theirs = _owner_of(found.data)
        raise UserError(
            f"output.uri {output} belongs to run {theirs.get('namespace')}/{theirs.get('name')} "
            f"(uid {theirs.get('uid')}): write elsewhere, or go on from what it has left with output.takeOver: true",
            ExitCode.OUTPUT_TAKEN,
        )
    claim.put(ours, if_match=found.etag if is_fenced else None)


def _owner_of(data: bytes) -> dict[str, str]:
    try:
        owner = json.loads(data)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}
