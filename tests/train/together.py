"""Train in one process or in each of several; leaves history.json and weights in a folder."""

import os
from pathlib import Path

import torch
from accelerate import PartialState

from edgeprune import models
from edgeprune.data import open_dataset
from edgeprune.data.loader import train_loader
from edgeprune.files import save_tensors
from edgeprune.recipe import Augment, Distill, Finetune, Loss
from edgeprune.train import loop
from edgeprune.train.distill import make_term
from edgeprune.train.loop import Hooks, train
from edgeprune.train.losses import make_loss
from edgeprune.train.memory import lie


def main(home: Path, batch: int) -> None:
    torch.manual_seed(0)
    net = models.build("streetnet", {"width": 8, "blocks": 1}, None, 9)
    torch.manual_seed(1)
    teacher = models.build("streetnet", {"width": 8, "blocks": 1}, None, 9).eval()
    data = open_dataset("streets", None, "train", (64, 128), train=16)
    cfg = Finetune(
        steps=6,
        batch=batch,
        lr=0.01,
        distill=Distill(),
        augment=Augment(scale=(1, 1.5)),
        loss=Loss(class_weights="none"),
    )  # no void, no weights: each process's mean counts alike, as everywhere in data-parallel training
    hooks = Hooks(distill=lambda student, device, layout: make_term(cfg.distill, student, lie(teacher, layout), 9))
    train(net, train_loader(data, cfg, 1), cfg, home, loss=make_loss(cfg.loss, None), seed=1, title="t", hooks=hooks)
    if PartialState().is_main_process:
        save_tensors(home / "weights.safetensors", dict(net.state_dict()))


def in_team(home: Path, batch: int) -> None:
    """The second process would choose another layout for itself."""
    if os.environ["RANK"] != "0":
        loop.image_layout = lambda *_: torch.contiguous_format
    main(home, batch)
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
