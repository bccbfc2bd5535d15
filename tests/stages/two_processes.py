"""Scores of methods that train, by every process of `torch.distributed.run`: FOLDER METHOD…; one JSON a process."""

import json
import sys
from pathlib import Path

from accelerate import PartialState

from edgeprune.prune.groups import find_groups
from edgeprune.stages import load, scoring
from edgeprune.train.loop import fingerprint
from tests.stages.test_prune import job, method

if __name__ == "__main__":
    team, folder, found = PartialState(cpu=True), Path(sys.argv[1]), {}
    for name in sys.argv[2:]:
        home = folder / name
        with team.main_process_first():
            run = job(home, *method(name))
        net = load.dense(run)
        p = run.recipe.prune
        scores = scoring.score(run, net, find_groups(net, load.example(run)), scoring.Spent(), p.args, p.sparsity)
        found[name] = {"scores": {n: s.tolist() for n, s in scores.items()}, "weights": fingerprint(net)}
    (folder / f"{team.process_index}.json").write_text(json.dumps({"world": team.num_processes, "found": found}))
    team.wait_for_everyone()
    team.destroy_process_group()
