"""Rules across the parts of a recipe; a rule within one part stands on that part's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runyard_trainer.contract.base import CrossRule
from runyard_trainer.contract.data import RECORD_FORMATS, DataSource, has_format
from runyard_trainer.contract.objectives import (
    EXTENDABLE_OBJECTIVES,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    NEXT_TOKEN_OBJECTIVES,
)

if TYPE_CHECKING:  # recipe.py reads these rules
    from runyard_trainer.contract.recipe import Recipe

_IS_MASKED = f"self.objective in {sorted(MASKED_OBJECTIVES)}"
_PREDICTS_NEXT_TOKEN = f"self.objective in {sorted(NEXT_TOKEN_OBJECTIVES)}"
_LEARNS_LANGUAGE = f"self.objective in {sorted(LANGUAGE_OBJECTIVES)}"


def _trains_wordpiece(recipe: Recipe) -> bool:
    training = recipe.model.scratch.tokenizer.train if recipe.model.scratch is not None else None
    return training is not None and training.type == "wordpiece"


def _replays_itself(recipe: Recipe) -> bool:
    return recipe.data.replay is not None and recipe.data.replay.source is not None


def _replay_sources(recipe: Recipe) -> list[DataSource]:
    return (recipe.data.replay.sources or []) if recipe.data.replay is not None else []


def _own_formats(objective: str, formats: tuple[str, ...]) -> tuple[CrossRule[Any], ...]:
    """Return the rules that sources have the formats of an objective's records with that objective only."""
    is_used = f"exists(source, source.format in {list(formats)})"
    ours = f"self.objective == '{objective}'"
    replay, held_out = "self.data.replay", "self.data.validation.sources"

    def own(field: str, holds: Any, cel: str) -> CrossRule[Any]:
        return CrossRule(
            path="data",
            holds=lambda recipe: recipe.objective == objective or holds(recipe),
            cel=f"{ours} || {cel}",
            message=f"{field}: the formats {', '.join(formats)} are those of objective {objective}: write how the "
            "files are, or auto",
        )

    return (
        own("data.train", lambda recipe: not has_format(recipe.data.train, formats), f"!self.data.train.{is_used}"),
        own(
            "data.replay.sources",
            lambda recipe: not has_format(_replay_sources(recipe), formats),
            f"!has({replay}) || !has({replay}.sources) || !{replay}.sources.{is_used}",
        ),
        own(
            "data.validation.sources",
            lambda recipe: not has_format(recipe.data.validation.sources, formats),
            f"!has({held_out}) || !{held_out}.{is_used}",
        ),
    )


_DATA_RULES: tuple[CrossRule[Recipe], ...] = (
    *(rule for objective, formats in RECORD_FORMATS.items() for rule in _own_formats(objective, formats)),
    CrossRule(
        path="data",
        holds=lambda recipe: recipe.data.select is None or recipe.objective in LANGUAGE_OBJECTIVES,
        cel=f"!has(self.data.select) || {_LEARNS_LANGUAGE}",
        message="data.select chooses among texts without labels, and those of this objective have some: remove it",
    ),
)

_EVALUATION_RULES: tuple[CrossRule[Recipe], ...] = (
    CrossRule(
        path="training.earlyStopping",
        holds=lambda recipe: recipe.training.early_stopping is None or recipe.evaluation.every_steps is not None,
        cel="!has(self.training.earlyStopping) || has(self.evaluation.everySteps)",
        message="training.earlyStopping needs evaluation.everySteps: say how often to measure",
    ),
    CrossRule(
        path="evaluation.tasks",
        holds=lambda recipe: not recipe.evaluation.tasks or recipe.objective in NEXT_TOKEN_OBJECTIVES,
        cel="!has(self.evaluation) || !has(self.evaluation.tasks) || self.evaluation.tasks.size() == 0 || "
        f"{_PREDICTS_NEXT_TOKEN}",
        message="evaluation.tasks are asked of models that predict the next token (objectives "
        f"{', '.join(sorted(NEXT_TOKEN_OBJECTIVES))}): remove them",
    ),
    CrossRule(
        path="evaluation.judge",
        holds=lambda recipe: recipe.evaluation.judge is None or recipe.objective in NEXT_TOKEN_OBJECTIVES,
        cel=f"!has(self.evaluation) || !has(self.evaluation.judge) || {_PREDICTS_NEXT_TOKEN}",
        message="evaluation.judge compares what models write (objectives "
        f"{', '.join(sorted(NEXT_TOKEN_OBJECTIVES))}): remove it",
    ),
    CrossRule(
        path="evaluation.judge",
        holds=lambda recipe: (
            recipe.evaluation.judge is None or (recipe.evaluation.before and recipe.model.scratch is None)
        ),
        cel="!has(self.evaluation) || !has(self.evaluation.judge) || "
        "(self.evaluation.before && !has(self.model.scratch))",
        message="evaluation.judge compares with the model as it came: give model.uri or model.run, and leave "
        "evaluation.before true",
    ),
)

_OBJECTIVE_RULES: tuple[CrossRule[Recipe], ...] = (
    CrossRule(
        path="masking.wholeWord",
        holds=lambda recipe: not recipe.masking.whole_word or recipe.objective in MASKED_OBJECTIVES,
        cel=f"!self.masking.wholeWord || {_IS_MASKED}",
        message="masking.wholeWord is for objectives masked-lm and masked-lm-nsp: leave it out",
    ),
    CrossRule(
        path="model.scratch.tokenizer.train.type",
        holds=lambda recipe: not _trains_wordpiece(recipe) or recipe.objective in MASKED_OBJECTIVES,
        cel="!has(self.model.scratch) || !has(self.model.scratch.tokenizer.train) || "
        f"self.model.scratch.tokenizer.train.type != 'wordpiece' || {_IS_MASKED}",
        message="model.scratch.tokenizer.train.type wordpiece is for objectives masked-lm and masked-lm-nsp: write bpe",
    ),
    CrossRule(
        path="model.scratch",
        holds=lambda recipe: recipe.model.scratch is None or recipe.objective in LANGUAGE_OBJECTIVES,
        cel=f"!has(self.model.scratch) || {_LEARNS_LANGUAGE}",
        message="model.scratch begins with random weights, and this objective fine-tunes a model: name one in "
        "model.uri or model.run",
    ),
    CrossRule(
        path="evaluation.general",
        holds=lambda recipe: not recipe.evaluation.general or recipe.objective not in HEAD_OBJECTIVES,
        cel="!has(self.evaluation) || !has(self.evaluation.general) || self.evaluation.general.size() == 0 || "
        f"!(self.objective in {sorted(HEAD_OBJECTIVES)})",
        message="evaluation.general measures how tokens are predicted, which a model has no head for after this "
        "objective: remove evaluation.general",
    ),
)

_METHOD_RULES: tuple[CrossRule[Recipe], ...] = (
    CrossRule(
        path="method.type",
        holds=lambda recipe: not recipe.method.is_adapter or recipe.model.scratch is None,
        cel="self.method.type == 'full' || !has(self.model.scratch)",
        message="method.type adapts weights that have learned something, and model.scratch has none: set method.type "
        "to full, or model.uri",
    ),
    CrossRule(
        path="method.dropout",
        holds=lambda recipe: recipe.objective != "preference" or not recipe.method.dropout,
        cel="self.objective != 'preference' || !has(self.method.dropout) || self.method.dropout == 0.0",
        message="preference is trained without dropout: remove method.dropout",
    ),
    CrossRule(
        path="preference.beta",
        holds=lambda recipe: recipe.objective == "preference" or recipe.preference.beta is None,
        cel="self.objective == 'preference' || !has(self.preference.beta)",
        message="preference.beta belongs to objective preference: remove it",
    ),
)

_KNOWLEDGE_RULES: tuple[CrossRule[Recipe], ...] = (
    CrossRule(
        path="data",
        holds=lambda recipe: not _replays_itself(recipe) or recipe.objective == "causal-lm",
        cel="!has(self.data.replay) || !has(self.data.replay.source) || self.objective == 'causal-lm'",
        message="data.replay.source self is for objective causal-lm: give data.replay.sources",
    ),
    CrossRule(
        path="data",
        holds=lambda recipe: not _replays_itself(recipe) or recipe.model.scratch is None,
        cel="!has(self.data.replay) || !has(self.data.replay.source) || !has(self.model.scratch)",
        message="data.replay.source self replays what the model knows, and model.scratch knows nothing: remove "
        "data.replay, or give data.replay.sources",
    ),
    CrossRule(
        path="model.extendVocabulary",
        holds=lambda recipe: recipe.model.extend_vocabulary is None or recipe.objective in EXTENDABLE_OBJECTIVES,
        cel=f"!has(self.model.extendVocabulary) || self.objective in {sorted(EXTENDABLE_OBJECTIVES)}",
        message=f"model.extendVocabulary is for objectives {' and '.join(sorted(EXTENDABLE_OBJECTIVES))}: remove it",
    ),
    CrossRule(
        path="data",
        holds=lambda recipe: recipe.model.extend_vocabulary is None or not _replays_itself(recipe),
        cel="!has(self.model.extendVocabulary) || !has(self.data.replay) || !has(self.data.replay.source)",
        message="data.replay.source self replays what the model knows, and it has never seen the tokens of "
        "model.extendVocabulary: give data.replay.sources",
    ),
)

RECIPE_RULES = (*_DATA_RULES, *_EVALUATION_RULES, *_OBJECTIVE_RULES, *_METHOD_RULES, *_KNOWLEDGE_RULES)
