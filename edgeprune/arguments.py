"""Arguments that a recipe hands to a function (`data.args`, `model.args`, `prune.args`), checked against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError, create_model

from edgeprune.documents import hint, shown, told
from edgeprune.errors import RecipeError


def check_arguments(
    call: Callable[..., Any], args: Mapping[str, Any], *, where: str, whose: str, given: Mapping[str, str]
) -> None:
    """Refuse arguments that a function does not take, and values of another type or range than it is annotated with.

    Args:
        where: the key of the recipe.
        whose: the function's name for users.
        given: parameters that do not come from `args`, and where they do come from.

    Raises:
        RecipeError: names the argument.
    """
    takes = {n: p for n, p in inspect.signature(call, eval_str=True).parameters.items() if n not in given}
    for key in args:
        if key in given:
            raise RecipeError(f"{where}.{key}: is not given here but by {given[key]}; leave it out")
        if key not in takes:
            raise RecipeError(f"{where}.{shown(key)}: {whose} takes no such argument; {hint(key, list(takes))}")
    fields: Any = {
        f"value_{name}": (_of_lists(p.annotation), Field(... if p.default is p.empty else p.default, alias=name))
        for name, p in takes.items()
    }
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    try:
        create_model("values", __config__=config, **fields).model_validate(dict(args))
    except ValidationError as error:
        faults = [f for f in error.errors() if f["loc"][0] == error.errors()[0]["loc"][0]]
        key = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in _inside(args, faults[0]["loc"]))
        raise RecipeError(f"{where}{key}: {' or '.join(dict.fromkeys(told(f) for f in faults))}") from error


def _of_lists(annotation: Any) -> Any:
    """The annotation, with tuples that YAML's lists may stand for."""
    if get_origin(annotation) is Annotated:
        return Annotated[(_of_lists(annotation.__origin__), *annotation.__metadata__)]
    if get_origin(annotation) is not tuple:
        return Any if annotation is inspect.Parameter.empty else annotation
    inner = tuple(a if a is ... else _of_lists(a) for a in get_args(annotation))
    return Annotated[tuple[inner], Field(strict=False)]


def _inside(value: Any, key: tuple[Any, ...]) -> tuple[Any, ...]:
    """The part of a fault's place that is a place in the value: unions add names of types."""
    for n, part in enumerate(key):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return key[:n] or key[:1]
    return key
