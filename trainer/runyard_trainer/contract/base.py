"""What every part of the contract is made of: the base model, rules across fields, marks on fields, and their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

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


# --------------------------------------------------------------------------------------------------------------- fields


def iterate_models(model: type[Model], path: str = "") -> Iterator[tuple[str, type[Model]]]:
    """Yield the model and every one below it, each with its path; that of a list's items ends in `[]`."""
    yield path, model
    for name, field in model.model_fields.items():
        nested, suffix = find_model(field.annotation)
        if nested is not None:
            yield from iterate_models(nested, _join(path, field.alias or to_camel(name)) + suffix)


def iterate_leaves(model: type[Model]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field that holds no model, with its path."""
    for path, each in iterate_models(model):
        for name, field in each.model_fields.items():
            if find_model(field.annotation)[0] is None:
                yield _join(path, field.alias or to_camel(name)), field


def find_model(annotation: Any) -> tuple[type[Model] | None, str]:
    """Return the model that a field of this type holds, and `[]` where it holds a list of them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return find_model(get_args(annotation)[0])
    if origin in (Union, UnionType):
        members = [each for each in get_args(annotation) if each is not NoneType]
        return find_model(members[0]) if len(members) == 1 else (None, "")
    if origin is list:
        model, suffix = find_model(get_args(annotation)[0])
        return model, f"[]{suffix}"
    is_model = isinstance(annotation, type) and issubclass(annotation, Model)
    return (annotation, "") if is_model else (None, "")


def iterate_values(value: Any, mark: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the value of every field that carries the mark, with its path."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield from iterate_values(each, mark, f"{path}[{i}]")
    if not isinstance(value, Model):
        return
    for name, field in type(value).model_fields.items():
        each, here = getattr(value, name), _join(path, field.alias or to_camel(name))
        if mark in field.metadata:
            yield here, each
        else:
            yield from iterate_values(each, mark, here)


def dump_tokens_by_value(model: Model) -> dict[str, Any]:
    """Return the fields marked `Tokens.BY_VALUE` as JSON, with the names that Python has for them.

    A model below that has such fields is an object of them, or None where it is absent; any other is left out.
    """
    dumped = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        nested, suffix = find_model(field.annotation)
        if Tokens.BY_VALUE in field.metadata:
            dumped[name] = model.model_dump(mode="json", include={name})[name]
        elif nested is not None and not suffix and _has_tokens_by_value(nested):
            dumped[name] = dump_tokens_by_value(value) if value is not None else None
    return dumped


def _has_tokens_by_value(model: type[Model]) -> bool:
    return any(Tokens.BY_VALUE in field.metadata for _, field in iterate_leaves(model))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def format_path(location: Sequence[int | str]) -> str:
    """Return a path such as `data.train[0].uri`; empty for the whole."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def describe_errors(error: ValidationError, root: str = "") -> list[str]:
    """Return a text for each mistake, with the path of its field below `root`: `spec.training.steps: ...`."""
    parent = (root,) if root else ()
    return [_describe_error((*parent, *each["loc"]), each["msg"]) for each in error.errors()]


def _describe_error(location: Sequence[int | str], message: str) -> str:
    path, message = format_path(location), message.removeprefix("Value error, ")
    return f"{path}: {message}" if path else message
