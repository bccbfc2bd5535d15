"""Statistics of two processes become one."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from edgeprune.prune.ranks import averaged


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    content = {"b": {"x": torch.tensor([1.0 + 2 * rank])}, "a": torch.tensor([float(rank)]), "steps": 3, "n": {}}
    found = averaged(content)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_tensors_are_averaged_over_processes(tmp_path: Path):
    alone = {"x": torch.ones(2)}
    assert averaged(alone) is alone
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["b"]["x"].tolist() == [2.0] and found["a"].tolist() == [0.5]
        assert found["steps"] == 3 and found["n"] == {}
