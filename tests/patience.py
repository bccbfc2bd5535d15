"""How long tests wait for narrow intervals: what they assert does not hang on it, and engines of tiny networks are noisy."""

from edgeprune.measure.race import race


def run_short() -> None:
    """Races without a patience of their own end after two seconds instead of twenty."""
    assert race.__kwdefaults__["seconds"] > 2
    race.__kwdefaults__["seconds"] = 2.0
