"""Networks that do what a later stage trips over, each in one way."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from tests.prune.nets import block


class Plain(nn.Module):
    """Segments into five classes at half size."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Sequential(nn.MaxPool2d(2), *block(3, 16)), block(16, 12), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        return self.c(self.between(self.b(self.a(x))))

    def between(self, y):
        return y


class HidesChildren(Plain):
    def __init__(self):
        super().__init__()
        self.b.children = {"first": self.b[0]}


class HidesMode(Plain):
    def __init__(self):
        super().__init__()
        self.training = {"lr": 0.1}


class TrainGivesNothing(Plain):
    def train(self, mode=True):
        super().train(mode)


class BufferOfEvaluation(Plain):
    """Keeps its kernel twice as fine in evaluation only."""

    def train(self, mode=True):
        super().train(mode)
        self.register_buffer("fine", None if mode else self.c.weight.detach() * 2)
        return self


class MergesForGood(Plain):
    """Takes the batch norm's scale into the classifier at each eval()."""

    def train(self, mode=True):
        super().train(mode)
        if not mode:
            self.c.weight.data.mul_(0.5)
        return self


class Rotated(nn.Conv2d):
    """A 1x1 convolution whose learnt offset is merged in evaluation and taken out for training."""

    def __init__(self, i, o):
        super().__init__(i, o, 1)
        self.offset, self.merged = nn.Parameter(torch.zeros(o, i, 1, 1)), False
        self.weight.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.weight += -self.offset if mode else self.offset
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) if self.merged else self._conv_forward(x, self.weight + self.offset, self.bias)


class Merges(Plain):
    def __init__(self):
        super().__init__()
        self.c = Rotated(12, 5)


class DrawsNoise(Plain):
    def between(self, y):
        return y + 0.1 * torch.randn_like(y)


class ShiftsByPythonsRandom(Plain):
    def between(self, y):
        return torch.roll(y, random.randint(0, 5), 3)


class WatchesThroughAClosure(Plain):
    """What its hook has seen lies in a dict that copies do not share."""

    def __init__(self):
        super().__init__()
        self.seen = seen = {}
        self.a.register_forward_hook(lambda module, args, output: seen.update(a=output))

    def between(self, y):
        return y * self.seen["a"].mean()


class HeadInAClosure(Plain):
    def __init__(self):
        super().__init__()
        c = self.c
        self.b.register_forward_hook(lambda module, args, output: c(output))

    def forward(self, x):
        return self.b(self.a(x))


class LearnsAnAttribute(Plain):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(12)

    def between(self, y):
        if self.training:
            self.mean = self.mean + y.mean((0, 2, 3)).detach()
        return y - self.mean[None, :, None, None]


class WritesInPlace(Plain):
    def between(self, y):
        y = torch.sigmoid(y)
        kept = y * y
        y += 1
        return kept


class WithoutGradient(Plain):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class NormOfTheBatch(Plain):
    def __init__(self):
        super().__init__()
        self.b[1] = nn.BatchNorm2d(12, track_running_stats=False)


class Viewed(Plain):
    def between(self, y):
        return y * torch.sigmoid(y.view(len(y), 12, -1).mean(2).view(len(y), 12, 1, 1))

    def forward(self, x):
        y = self.b(self.a(x))
        return self.c(self.between(y)) + y.view(len(y), -1).mean(1).view(-1, 1, 1, 1)


class Stamped(Plain):
    """Its state holds a date, as quantisers' and trackers' do."""

    def get_extra_state(self):
        return {"made": "2026-01-01"}

    def set_extra_state(self, state):
        raise AssertionError("nobody asked for it")


class Median(Plain):
    def between(self, y):
        return y - y.median(dim=2, keepdim=True).values


class Antialiased(Plain):
    def between(self, y):
        small = F.interpolate(y, scale_factor=0.5, mode="bicubic", antialias=True)
        return F.interpolate(small, size=y.shape[2:])


class Fourier(Plain):
    def between(self, y):
        return torch.fft.irfft2(torch.fft.rfft2(y) * 2, s=y.shape[2:])


class MasksAClass(Plain):
    """One of its classes is never answered."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, -torch.inf, 0.0]).view(1, 5, 1, 1))

    def forward(self, x):
        return super().forward(x) + self.mask


class IndexInAParameter(Plain):
    def __init__(self):
        super().__init__()
        self.order = nn.Parameter(torch.arange(11, -1, -1), requires_grad=False)

    def between(self, y):
        return y[:, self.order]


class AnswersClassesToo(Plain):
    def forward(self, x):
        y = super().forward(x)
        return {"out": y, "classes": y.argmax(1), "mask": y > 0}
