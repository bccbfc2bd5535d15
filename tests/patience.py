"""How long tests wait for narrow intervals: what they assert does not hang on it, and engines of tiny networks are noisy."""

import functools
import sys
from typing import Any

_LONGEST = 0.5  # seconds, instead of 5 to 20; four times as many where an interval is wide


def run_short() -> None:
    """Races end soon. Before anything is imported that runs one."""
    from edgeprune.measure import race as races

    assert "edgeprune.stages" not in sys.modules
    whole = races.race

    @functools.wraps(whole)
    def short(take: Any, **how: Any) -> Any:
        return whole(take, **how | {"seconds": min(how.get("seconds", _LONGEST), _LONGEST)})

    races.race = short
