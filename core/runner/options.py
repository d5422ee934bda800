"""The decorator that makes a class a part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object):  # noqa: D103  Python 3.10 has none in typing
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen, keyword-only dataclass whose fields are keys of a recipe.

    Fields are checked strictly: unknown keys, missing keys and wrong types are errors that point
    into the recipe. Bounds are written with ``annotated_types`` (``Annotated[float, Ge(0)]``),
    choices with ``Literal``. The string under a field is its help text.

    Importing this module, or a module of options, costs no third-party import: pydantic, which
    does the checking, is imported when a recipe is read.
    """
    cls = dataclass(frozen=True, kw_only=True, slots=True)(cls)
    cls.__pydantic_config__ = {  # type: ignore[attr-defined]  # read by pydantic
        "extra": "forbid",
        "strict": True,
        "use_attribute_docstrings": True,
    }
    return cls


@options
class NoOptions:
    """The options of an entry that has none."""
