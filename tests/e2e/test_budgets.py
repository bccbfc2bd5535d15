"""Latency budgets, searches and comparisons, all the way to engines."""

import json
import sys
import time
from pathlib import Path

from tests.e2e.running import SETTINGS, STAGES, called, report, run, started, together

WIDER = ["model.args={width: 16}", "prune.step=8", "prune.allocate=auto", "prune.sensitivity_images=2"]


def test_a_latency_budget_goes_all_the_way(tmp_path: Path):
    """With a budget that anything meets: what is asserted must not hang on how busy this machine is."""
    done = run(tmp_path, "budget.latency_ms=10000", *WIDER)
    assert done.returncode == 0, done.stderr
    r, home = report(tmp_path), tmp_path / "quickstart@cpu"
    b = r["budget"]
    assert b["kind"] == "latency_ms" and b["measured"] and b["met"] and b["unit"] == "ms" and b["ci95"][1] <= b["limit"]
    gate = next(g for g in r["gates"] if g["name"] == "latency")
    assert gate["passed"] and gate["value"] == b["ci95"][1]
    engines = json.loads((home / "prune" / "latency.json").read_text())["engines"]
    assert len(engines) == b["engines_built"] == 1, "the dense widths meet it, and no wider network exists"
    assert engines[0]["chosen"] and engines[0]["record"]["pairs"] >= 20
    assert {row["name"] for row in r["layers"]["rows"]} >= {"stem.0.0"} or len(r["layers"]["rows"]) > 3
    page = (home / "report.html").read_text()
    assert "Milliseconds that MACs promised" in page and "of the budget" in page
    again = run(tmp_path, "budget.latency_ms=10000", *WIDER)
    assert again.returncode == 0 and again.stderr.count("skipped") == len(STAGES)


def test_a_latency_that_no_width_reaches_is_one_line(tmp_path: Path):
    done = run(tmp_path, "budget.latency_ms=0.0001", *WIDER)
    assert done.returncode == 1
    assert "cannot be reached by pruning" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "quickstart@cpu" / "load").exists(), "told before anything is trained"


def test_an_estimate_meets_no_budget(tmp_path: Path):
    done = run(tmp_path, "budget.latency=0.97x", *WIDER, target="jetson")  # so small a network is nearly all launches
    assert done.returncode == 4, done.stderr
    b = report(tmp_path, "quickstart@jetson")["budget"]
    assert b["estimated"] and not b["measured"] and b["met"] is None and b["engines_built"] == 0
    assert b["achieved"] <= b["limit"]
    assert "estimate" in done.stderr


def test_two_processes_share_a_search(tmp_path: Path):
    settings = [x for s in SETTINGS for x in ("--set", s)]
    line = [
        sys.executable, "-m", "edgeprune", "search", "quickstart", "--runs-dir", str(tmp_path), "--budgets", "macs=0.6x",
        "--methods", "l1,random", *settings,
    ]  # fmt: skip
    both = together(line, [{}, {}])
    assert all(p.returncode == 0 for p in both), both
    assert all("more waiting" in p.stderr for p in both), "each took a point"
    last = called(line)  # nothing is left to run; the front is written whole
    assert last.returncode == 0 and "more waiting" not in last.stderr
    found = json.loads((tmp_path / "quickstart@cpu-search" / "search.json").read_text())
    assert {r["method"] for r in found["rows"]} == {"l1", "random"} and any(r["front"] for r in found["rows"])
    assert "<svg" in (tmp_path / "quickstart@cpu-search" / "search.html").read_text()


def test_a_comparison_over_seeds(tmp_path: Path):
    settings = [x for s in (*SETTINGS, "train.steps=4", "finetune.steps=2") for x in ("--set", s)]
    line = [
        sys.executable, "-m", "edgeprune", "compare", "quickstart", "--methods", "l1,random", "--seeds", "0,3", "--runs-dir",
        str(tmp_path / "runs"), "--out", str(tmp_path / "table"), *settings,
    ]  # fmt: skip
    done = called(line)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "table.json").read_text())
    assert {(r["entry"], r["seed"]) for r in found["runs"]} == {
        (f"quickstart-{m}", s) for m in ("l1", "random") for s in (0, 3)
    }
    assert {r["method"] for r in found["rows"]} == {"l1", "random"} and all(
        r["spread"] is not None for r in found["rows"]
    )
    assert len({r["dense_score"] for r in found["runs"]}) == 2, "a dense network a seed, shared by the methods"
    assert len(list((tmp_path / "runs").glob("*-dense-*"))) == 2
    assert "| quickstart-l1 |" in (tmp_path / "table.md").read_text()
    again = called(line)
    assert again.returncode == 0 and again.stderr.count("skipped") >= 4 * len(STAGES)


def test_a_search_takes_up_what_a_killed_process_left(tmp_path: Path):
    start = [
        sys.executable, "-m", "edgeprune", "search", "quickstart", "--runs-dir", str(tmp_path), "--budgets", "macs=0.6x",
        "--methods", "l1",
    ]  # fmt: skip
    settings = [x for s in (*SETTINGS, "finetune.steps=4000") for x in ("--set", s)]
    killed = started([*start, *settings], [tmp_path / "stdout", tmp_path / "stderr"])
    manifest = tmp_path / "quickstart-l1-macs-0.6x@cpu" / "manifest.json"
    for _ in range(1200):
        if manifest.exists() and "prune" in manifest.read_text():
            break
        time.sleep(0.1)
    killed.kill()
    killed.join()
    settings = [x for s in SETTINGS for x in ("--set", s)]  # other keys: the point is done anew
    done = called([*start, *settings])
    assert done.returncode == 0, done.stderr
    assert "left by a process that is gone" in done.stderr
