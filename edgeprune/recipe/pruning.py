"""`prune` and `budget`: which channels go, and how many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgeprune.documents import written
from edgeprune.recipe.base import Count, Positive, Section, Whole, meant_share, share_of
from edgeprune.recipe.training import Train


def _portion(value: Any) -> Any:
    share = share_of(value) if isinstance(value, str) else None
    if share is None:
        raise ValueError(f'write a share of the dense network such as "0.4x", not {written(value)}{meant_share(value)}')
    if not 0 < share <= 1:
        raise ValueError(f"a share lies between 0x and 1x, not {written(value)}")
    return value


def _amount(value: Any) -> Any:
    if value is None or (isinstance(value, str) and share_of(value) is not None):
        return value if value is None else _portion(value)
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        raise ValueError(
            f'write a number or a share of the dense network such as "0.4x", not {written(value)}{meant_share(value)}'
        )
    if not 0 < value <= _MOST_COST:
        raise ValueError(f"must be more than 0 and at most {_MOST_COST:g}, not {written(value)}")
    if value <= 1:
        raise ValueError(f"{written(value)} leaves no network{meant_share(value)}")
    return value


def _latency(value: Any) -> Any:
    if value is None or (isinstance(value, str) and share_of(value) is not None):
        return value if value is None else _portion(value)
    meant = meant_share(value)
    if not meant and isinstance(value, (int, float)) and not isinstance(value, bool):
        meant = f"; did you mean budget.latency_ms={written(value)}?"
    raise ValueError(f'write a share of the dense engine\'s latency such as "0.5x", not {written(value)}{meant}')


def _not_a_share(value: Any) -> Any:
    if isinstance(value, str) and share_of(value) is not None:
        raise ValueError(f"write milliseconds, not a share; did you mean budget.latency={value.strip()}?")
    return value


_MOST_COST = 1e18
Portion = Annotated[str, BeforeValidator(_portion)]
Amount = Annotated[str | float, BeforeValidator(_amount)]


class Round(Section):
    """An earlier, gentler cut."""

    keep: Portion = Field(
        description='the budget of this cut as a share of the dense network, such as "0.7x", in the unit of `budget`'
    )
    args: dict[str, Any] | None = Field(
        default=None, description="the criterion's switches for this cut; null: those of prune.args"
    )
    sparsity: Train | None = Field(
        default=None, description="training that the criterion takes part in before this cut; null: prune.sparsity"
    )
    finetune: Train | None = Field(default=None, description="training after this cut; null: none")

    @property
    def share(self) -> float:
        """`keep` as a number."""
        return float(self.keep.strip().rstrip("x"))


class Prune(Section):
    """Which channels go."""

    method: str = Field(
        description="the criterion: sirfp, cap, mtp, acosp, dcfp, fpgm, fpgm_a, ns, bn_scale, taylor, halp, group_norm, "
        "obs, l1, l2 or random"
    )
    args: dict[str, Any] = Field(default={}, description="the criterion's switches")
    allocate: Literal["auto", "global", "uniform", "knapsack"] = Field(
        default="auto",
        description="global: all scores compete; uniform: the same share of each layer; knapsack: the most worth under "
        "the budget; auto: knapsack for a latency budget, else global",
    )
    worth: Literal["sensitivity", "score", "sum"] = Field(
        default="sensitivity",
        description="what the knapsack adds up: the measured loss when a layer alone is cut, its share of scores, or the "
        "scores themselves (HALP)",
    )
    sensitivity_images: Count = Field(default=8, description="training images that the sensitivity is measured on")
    recovery_steps: Whole | None = Field(
        default=None,
        description="steps of distillation after which each layer's measured loss counts; 0: at once; null: 0 with "
        "prune.compensate and no contest, else up to 30, all layers together at most half of the fine-tuning",
    )
    contest_steps: Whole | None = Field(
        default=None,
        description="steps that ways to share the budget out compete for; 0: no contest; null: none with "
        "prune.compensate, else up to 150, all of them together at most as long as the fine-tuning",
    )
    remove_blocks: Literal["never", "needed", "free"] = Field(
        default="needed",
        description="knapsack: whole residual branches go where no widths meet the budget (needed), or wherever their "
        "measured loss is the cheapest (free); with a contest, networks with fewer branches compete then",
    )
    compensate: bool = Field(
        default=True,
        description="channels that stay stand in for those that go: the weights that read them take a linear prediction in, by "
        "least squares on the calibration batches; false: removed channels are only left out, as in the papers",
    )
    min_keep: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.02, description="the share of each layer that always stays"
    )
    never: list[str] = Field(
        default=[], description='modules (globs) that are never pruned, with all that they hold, such as "head"'
    )
    batches: Count = Field(default=16, description="training batches that the criterion watches")
    step: Count | None = Field(
        default=None,
        description="widths are multiples of it; null: the target's channel_step, or under a measured latency budget the step found on the device",
    )
    sparsity: Train | None = Field(
        default=None,
        description="training that the criterion takes part in before it scores: acosp, cap, dcfp, mtp and ns need it, "
        "sirfp may have it",
    )
    rounds: list[Round] = Field(
        default=[], description="earlier, gentler cuts, each with its training, before the last"
    )


class Budget(Section):
    """What the pruned network may cost: exactly one of these. "0.4x" is a share of the dense network."""

    macs: Amount | None = Field(default=None, description="multiply-adds of one image (fvcore's count)")
    params: Amount | None = Field(default=None, description="parameters")
    channels: Amount | None = Field(default=None, description="kept channels of the prunable groups")
    latency: Annotated[str | None, BeforeValidator(_latency)] = Field(
        default=None, description="a share of the dense engine's latency"
    )
    latency_ms: Annotated[Positive | None, BeforeValidator(_not_a_share)] = Field(
        default=None, description="milliseconds an image on the target"
    )
    fps: Positive | None = Field(default=None, description="images a second on the target")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [k for k in Budget.model_fields if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(Budget.model_fields)}, not {' and '.join(given) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(k for k in Budget.model_fields if getattr(self, k) is not None)

    @property
    def is_latency(self) -> bool:
        """Is it one that only the device can tell?"""
        return self.kind in ("latency", "latency_ms", "fps")

    def limit(self, whole: float) -> float:
        """The limit in the budget's own unit, given the dense network's cost."""
        value = getattr(self, self.kind)
        return whole * float(value.strip().rstrip("x")) if isinstance(value, str) else float(value)
