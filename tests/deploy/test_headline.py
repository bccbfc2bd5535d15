"""A network that lost much against the dense one is told first, whatever the gates say, and fails a gate by default."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgeprune.deploy.headline import headline
from edgeprune.measure import ap, miou, top1
from edgeprune.recipe import Deploy, Gates, load_recipe
from edgeprune.shipped import shipped
from edgeprune.stages import verify
from edgeprune.tasks import METRICS, TASKS

CLASSES = ["a", "b", "c", "d"]
LABELS = np.arange(40) % 4  # an image's class, four of each kind of answer below


class Images:
    """Forty images of one class each; in segmentation the left half is of class a."""

    classes = CLASSES

    def __init__(self, task: str) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, n: int):
        image = np.full((8, 8, 3), n, np.uint8)
        if self.task == "segmentation":
            return image, mask(LABELS[n])
        return image, np.asarray(LABELS[n], np.uint8)


def mask(right: int) -> np.ndarray:
    found = np.zeros((8, 8), np.uint8)
    found[:, 4:] = right
    return found


def judged(task: str, share: float):
    """An evaluation of answers of which this share of each class is right, and the others are another class."""
    answers = [k if i // 4 < 10 * share else (k + 1) % 4 for i, k in enumerate(LABELS)]
    if task == "detection":
        boxes = [np.array([[1, 1, 7, 7, k, 0.9]], np.float32) for k in answers]
        truth = [np.array([[1, 1, 7, 7, k, 0]], np.float32) for k in LABELS]
        return ap.judge(boxes, truth, CLASSES)
    if task == "classification":
        return top1.evaluate(lambda x: np.eye(4)[[answers[i] for i in x[:, 0, 0, 0]]], Images(task))
    return miou.evaluate(lambda x: np.stack([mask(answers[i]) for i in x[:, 0, 0, 0]]), Images(task))


def outcome(task: str, dense: float, pruned: float, engine: float | None = None, gates: Gates | None = None):
    """(gates by name, the report as far as a headline needs it)."""
    its = TASKS[task](CLASSES, (8, 8), lambda: None)
    found = {"dense": judged(task, dense), "pruned": judged(task, pruned)}
    last = judged(task, pruned if engine is None else engine)
    rows = {name: its.row(e) for name, e in [*found.items(), ("engine", last)]}
    facts = {"measured": False, "budget": None, **verify.compared(its, rows, found, last)}
    budget = {"kind": "params", "limit": 1.0, "achieved": 1.0, "dense": 2.0}
    run = SimpleNamespace(
        recipe=SimpleNamespace(deploy=Deploy(gates=gates or Gates()), budget=SimpleNamespace(is_latency=False)),
        kept={"task": its}, facts={"prune": {"budget": budget}, "finetune": {}},
    )  # fmt: skip
    report = {
        "metric": vars(METRICS[task]),
        "dense": {"chance": facts["chance"]},
        "attribution": facts["attribution"],
    }
    return {g.name: g for g in verify._gates(run, facts)}, report  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_an_engine_that_equals_a_ruined_network_fails_a_gate_by_default(task):
    gates, report = outcome(task, 1.0, 0.3)
    assert [n for n, g in gates.items() if not g.passed] == ["pruning_drop"]
    assert gates["pruning_drop"].value < -50 and gates["pruning_drop"].limit == 5
    first = headline(report)[0]
    assert first.startswith(f"{METRICS[task].name} fell from 100.00 to ") and "by pruning and fine-tuning" in first


@pytest.mark.parametrize("task", TASKS)
def test_without_the_gate_the_headline_stays(task):
    gates, report = outcome(task, 1.0, 0.3, gates=Gates(pruning_drop=None))
    assert "pruning_drop" not in gates and all(g.passed for g in gates.values())
    assert len(headline(report)) == 2 and headline(report)[1].startswith("lost classes (")


@pytest.mark.parametrize("task", TASKS)
def test_a_pruned_network_that_is_better_passes_and_is_no_headline(task):
    gates, report = outcome(task, 0.7, 0.9)
    assert all(g.passed for g in gates.values()) and headline(report) == []


def test_what_is_lost_behind_pruning_is_told_of_what_ships():
    gates, report = outcome("classification", 1.0, 1.0, engine=0.5)
    assert gates["pruning_drop"].passed and not gates["top1_drop"].passed
    assert "top-1 fell from 100.00 to 50.00" in headline(report)[0]
    assert "pruning and fine-tuning: 0.00; the rest behind them" in headline(report)[0]


def test_a_fifth_of_a_small_score_is_much_and_four_points_of_a_great_one_are_not():
    def report(dense, ships, chance=0.01):
        rows = [
            {"stage": s, "miou": v, "iou_per_class": {}}
            for s, v in (("dense", dense), ("pruned", ships), ("f16", ships))
        ]
        return {"metric": vars(METRICS["segmentation"]), "dense": {"chance": chance}, "attribution": rows}

    assert headline(report(0.16, 0.12)) and not headline(report(0.8, 0.76)) and headline(report(0.8, 0.74))
    (line,) = headline(report(0.031, 0.02, chance=0.03))
    assert "no better than guessing: mIoU 3.10, and guessing reaches 3.00" in line


@pytest.mark.parametrize("task", TASKS)
def test_a_dense_network_that_guesses_is_told(task):
    share = 0.0 if task == "detection" else 0.2
    _, report = outcome(task, share, share)
    if task == "segmentation":  # its left half is right
        report["attribution"] = [row | {"miou": report["dense"]["chance"]} for row in report["attribution"]]
    assert "no better than guessing" in headline(report)[0] and len(headline(report)) == 1


def test_chance_of_masks():
    even, odd = np.diag([5, 5, 5, 5]), np.diag([90, 5, 5, 0])  # of the fourth class there is nothing
    assert miou.chance(even) == pytest.approx(1 / 7)  # classes drawn: p / (2 - p); one everywhere: 1 / 16
    assert miou.chance(odd) == pytest.approx(0.9 / 3)
    assert miou.chance(np.zeros((3, 3))) == 0


def test_a_class_that_is_lost_is_told_although_the_mean_is_not_and_may_be_a_gate():
    gates, report = outcome("segmentation", 1.0, 1.0, gates=Gates(pruning_class_drop=10))
    assert gates["pruning_class_drop"].passed and gates["pruning_class_drop"].value == 0
    first, *_, last = report["attribution"]
    names = ["car", *map(str, range(40))]
    first |= {"miou": 0.60, "iou_per_class": dict.fromkeys(names, 0.6)}
    last |= {"miou": 0.59, "iou_per_class": {**dict.fromkeys(names, 0.6), "car": None}}
    assert headline(report) == ["lost classes (IoU): car 60.0 to 0.0"]
    worse, _ = outcome("classification", 1.0, 0.8, gates=Gates(pruning_class_drop=10, pruning_drop=None))
    assert not worse["pruning_class_drop"].passed and worse["pruning_class_drop"].value == pytest.approx(-20)


def test_every_shipped_recipe_says_what_pruning_may_lose():
    """Above the default only where a paper's own loss is (`docs/methods.md` names it)."""
    for path in shipped("recipes").glob("*.yaml"):
        gates = load_recipe(path.stem).deploy.gates
        assert gates.pruning_drop is not None and "pruning_drop" in gates.model_fields_set, path.stem
