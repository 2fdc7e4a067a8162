"""What all of the contract is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


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


def check_exactly_one(model: BaseModel, path: str, *names: str) -> None:
    """Raises ValueError unless just one of these fields is given."""
    given = [to_camel(name) for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        *others, last = map(to_camel, names)
        wanted = f"{', '.join(others)} or {last}"
        found = f"found {' and '.join(given)}" if given else "found none"
        raise ValueError(f"{path} needs exactly one of {wanted}: {found}")


URI_PATTERN = r"^(s3|file)://.+$"
Uri = Annotated[str, Field(min_length=6, max_length=1024, pattern=URI_PATTERN)]
"""An s3://bucket/prefix (in a cluster) or file:///folder (alone). A trailing slash makes no difference."""

Fraction = Annotated[float, Field(ge=0, le=1)]
