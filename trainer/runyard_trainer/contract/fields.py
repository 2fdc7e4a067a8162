"""Fields and their paths, as a person writes them (`data.train[0].uri`): of a model's type, of a value, of an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from runyard_trainer.contract.base import Model, Tokens


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
