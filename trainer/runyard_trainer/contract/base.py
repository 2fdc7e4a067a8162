"""What every part of the contract is made of: the base model, rules across fields, and marks on fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

M = TypeVar("M")


@dataclass(frozen=True)
class CrossRule(Generic[M]):
    """A rule across fields, written once for pydantic and for the API server. A model lists its own."""

    path: str
    """The field that is refused, below the model that lists the rule: `batchTokens`. Empty: the model as a whole."""
    holds: Callable[[M], bool]
    """Whether the model keeps the rule."""
    cel: str
    """The same in CEL; `self` is the model, with all defaults filled in."""
    message: str
    """What is wrong and what to do, with the full path of each field: `training.batchTokens is ...`."""


class Model(BaseModel):
    """Base of everything here: camelCase outside, snake_case inside, unknown fields refused, values frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    cross_rules: ClassVar[tuple[CrossRule[Any], ...]] = ()

    @model_validator(mode="after")
    def _check_cross_rules(self) -> Self:
        for rule in self.cross_rules:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self


def exactly_one(model_path: str, *names: str) -> CrossRule[Any]:
    """Return the rule that just one of these fields is given."""
    fields = [to_camel(name) for name in names]
    given = ", ".join(f"has(self.{field})" for field in fields)
    return CrossRule(
        path="",
        holds=lambda model: sum(getattr(model, name) is not None for name in names) == 1,
        cel=f"[{given}].exists_one(given, given)",
        message=f"{model_path} needs exactly one of {', '.join(fields)}",
    )


def at_most_one(model_path: str, first: str, second: str) -> CrossRule[Any]:
    """Return the rule that not both of these fields are given."""
    fields = to_camel(first), to_camel(second)
    return CrossRule(
        path="",
        holds=lambda model: getattr(model, first) is None or getattr(model, second) is None,
        cel=f"!has(self.{fields[0]}) || !has(self.{fields[1]})",
        message=f"{model_path}.{fields[0]} and {model_path}.{fields[1]} are both set: keep one of them",
    )


class Tokens(Enum):
    """A mark on each field of `data` and `model`: how the tokens that are prepared depend on it."""

    BY_VALUE = "the value is a part of the dataset's key as it stands"
    BY_FILES = "it says which files are read, or how; they are a part of the key with their ETags"
    BY_USE = "`preparation.key` says when, and with which default, it is a part of the key"
    NOT = "the tokens are the same whatever it is"


class UriUse(Enum):
    """A mark on the fields that hold a URI."""

    INPUT = "text that the run reads: its output may not lie within"


URI_PATTERN = r"^(s3|file)://.+$"
Uri = Annotated[str, Field(min_length=6, max_length=1024, pattern=URI_PATTERN)]
"""An s3://bucket/prefix (in a cluster) or file:///folder (alone). A trailing slash makes no difference."""

InputUri = Annotated[Uri, UriUse.INPUT]
"""Where text lies that a run reads."""

Fraction = Annotated[float, Field(ge=0, le=1)]
