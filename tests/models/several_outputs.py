"""Networks with an auxiliary head, in the forms in which public code gives its outputs."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn

Heads = namedtuple("Heads", ["coarse", "final"])
Named = namedtuple("Named", ["logits", "aux_logits"])


@dataclass
class Fields:
    coarse: torch.Tensor
    final: torch.Tensor


class ModelOutput(OrderedDict):
    """As transformers': a dict whose parts are also attributes."""


def block(i: int, o: int, s: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.ReLU())


class Refined(nn.Module):
    """Coarse logits, and logits refined with them, in a form that a function of (coarse, final, features, training) makes."""

    def __init__(self, classes, form) -> None:
        super().__init__()
        self.stem, self.coarse = block(3, 16, 2), nn.Conv2d(16, classes, 1)
        self.refine, self.final, self.form = block(16 + classes, 24), nn.Conv2d(24, classes, 1), form

    def forward(self, x):
        y = self.stem(x)
        coarse = self.coarse(y)
        z = self.refine(torch.cat([y, coarse], 1))
        return self.form(coarse, self.final(z), z, self.training)


UNCLEAR = {  # form, what is asked for, how it is written
    "hrnet_ocr": (lambda c, f, z, t: [c, f], "-1", "model.output=1 for 1"),
    "pidnet": (lambda c, f, z, t: [c, f, z[:, :1]], "1", "model.output=1 for 1"),
    "only_in_training": (lambda c, f, z, t: [c, f] if t else f, "-1", "model.output=1 for 1"),
    "tuple_of_one_in_evaluation": (lambda c, f, z, t: (f, c) if t else (f,), "0", "model.output=0 for 0"),
    "nested": (lambda c, f, z, t: {"seg": {"coarse": c, "final": f}, "edge": z[:, :1]}, "seg.final", "model.output=seg.final for"),
    "list_in_list": (lambda c, f, z, t: [[z, c], [f]], "1.0", "'model.output=\"1.0\"' for 1.0"),
    "dataclass": (lambda c, f, z, t: Fields(c, f), "final", "model.output=final for"),
    "named_tuple": (lambda c, f, z, t: Heads(c, f), "final", "model.output=final for"),
    "model_output": (lambda c, f, z, t: ModelOutput(coarse=c, final=f), "final", "model.output=final for"),
    "two_main_names": (lambda c, f, z, t: {"out": c, "logits": f}, "logits", "model.output=logits for"),
    "numbers_as_keys": (lambda c, f, z, t: {0: c, 1: f}, "1", "model.output=1 for 1"),
}  # fmt: skip
CLEAR = {  # form, path of what ships in evaluation
    "torchvision": (lambda c, f, z, t: OrderedDict(out=f, aux=c), "out"),
    "googlenet": (lambda c, f, z, t: Named(f, c) if t else f, ""),
    "transformers": (lambda c, f, z, t: ModelOutput(loss=None, aux=c, logits=f), "logits"),
    "logits_and_features": (lambda c, f, z, t: (f, z), "0"),
    "features_and_logits": (lambda c, f, z, t: [z, f], "1"),
    "logits_under_another_name": (lambda c, f, z, t: {"features": z, "seg": f}, "seg"),
    "nested_by_name": (lambda c, f, z, t: {"out": {"logits": f, "aux": c}}, "out.logits"),
}


def build(classes: int, form: str) -> nn.Module:
    return Refined(classes, (UNCLEAR | CLEAR)[form][0])
