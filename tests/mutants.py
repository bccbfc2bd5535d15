"""JSON with one thing changed, for the fuzz tests of everything that the program reads back."""

import copy
from typing import Any

from hypothesis import strategies as st

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_subnormal=False), st.text(max_size=5), st.just([]), st.just({}),
    st.lists(st.floats(allow_subnormal=False), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything in a document, the document itself first."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in below for p in places(v, (*path, k)))]


def mutants(good: Any) -> st.SearchStrategy[Any]:
    """The document with something odd put in one place, added there, or with nothing left there."""
    return st.builds(
        _mutant, st.just(good), st.sampled_from(places(good)), ODD, st.sampled_from(["put", "drop", "add"])
    )


def _mutant(good: Any, place: tuple[Any, ...], odd: Any, how: str) -> Any:
    held = {"": copy.deepcopy(good)}
    at: Any = held
    for key in ("", *place)[:-1]:
        at = at[key]
    last = ("", *place)[-1]
    if how == "drop" and place:
        del at[last]
    elif how == "add" and isinstance(at[last], dict):
        at[last]["more"] = odd
    elif how == "add" and isinstance(at[last], list):
        at[last].append(odd)
    else:
        at[last] = odd
    return held[""]
