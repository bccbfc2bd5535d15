"""Small networks, one for each awkward operator."""

import torch
import torch.nn.functional as F
from torch import nn


def block(inp: int, out: int, k: int = 3, **kw) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inp, out, k, padding=k // 2, bias=False, **kw), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 24), nn.Conv2d(16, 5, 1)
        self.c = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))

    def forward(self, x):
        x = self.a(x)
        return F.interpolate(self.head(F.relu(x + self.c(self.b(x)))), scale_factor=2, mode="bilinear")


class Unpool(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), block(16, 16), block(16, 12), nn.Conv2d(12, 5, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)

    def forward(self, x):
        x, places = self.pool(self.a(x))
        return self.head(self.c(self.unpool(self.b(x), places)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.g, self.head = block(3, 16), block(16, 32, groups=4), nn.Conv2d(32, 5, 1)
        self.d = block(32, 32, groups=32)

    def forward(self, x):
        return self.head(self.d(self.g(self.a(x))))


class ChannelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 12), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        return self.head(self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


class ChunkCat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(8, 8), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        left, right = self.a(x).chunk(2, 1)
        return self.head(torch.cat([self.b(left), right], 1))


class SplitFixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(6, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        small, _ = self.a(x).split([6, 10], 1)
        return self.head(self.b(small))


class PixelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.up, self.head = block(3, 16), block(4, 8), nn.PixelShuffle(2), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.head(self.b(self.up(self.a(x))))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.up, self.head = block(3, 16), nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(24, 5, 1)
        self.side = block(3, 16)

    def forward(self, x):
        return self.head(torch.cat([F.relu(self.up(self.a(F.max_pool2d(x, 2)))), self.side(x)], 1))


class Twice(nn.Module):
    """One tensor concatenated with itself, and one module called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 8), block(8, 8), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = self.b(self.b(self.a(x)))
        return self.head(torch.cat([x, x], 1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.s1, self.s2, self.head = (
            block(3, 16),
            nn.Conv2d(16, 4, 1),
            nn.Conv2d(4, 16, 1),
            nn.Conv2d(16, 5, 1),
        )
        self.fc = nn.Linear(16, 16)

    def forward(self, x):
        x = self.a(x)
        x = x * torch.sigmoid(self.s2(F.relu(self.s1(x.mean((2, 3), keepdim=True)))))
        return self.head(x * torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))[:, :, None, None])


class ZeroPadded(nn.Module):
    """ENet's residual: zero channels padded beside the narrower branch."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 8), block(8, 12), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.a(x)
        return self.head(F.relu(self.b(x) + F.pad(x, (0, 0, 0, 0, 0, 4))))


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out, self.aux = block(3, 16), block(16, 8), nn.Conv2d(8, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = self.a(x)
        return {"out": self.out(self.b(x)), "aux": self.aux(x)}


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = block(3, 8), nn.Linear(8 * 16 * 16, 5)

    def forward(self, x):
        return self.fc(F.max_pool2d(self.a(x), 2).flatten(1))


class UnknownOperator(nn.Module):
    """cumsum over the channels is on no list: its channels must stay."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 8), block(8, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.head(self.b(torch.cumsum(self.a(x), 1)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 5, 1)
        self.gn, self.inorm, self.act = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8)

    def forward(self, x):
        return self.head(self.act(self.inorm(self.b(F.silu(self.gn(self.a(x)))))))


class Tokens(nn.Module):
    """A transformer's layer on (B, N, C): what is inside the feed-forward can go, embedding and heads stay."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.mlp_norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.dw, self.down = nn.Linear(8, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Linear(16, 8)
        self.last, self.head = nn.Linear(8, 12), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.embed(x)
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        y = self.norm(x)
        q, k, v = (f(y).reshape(b, h * w, 2, -1).permute(0, 2, 1, 3) for f in (self.q, self.k, self.v))
        x = x + self.proj((torch.softmax(q @ k.transpose(-2, -1), -1) @ v).transpose(1, 2).flatten(2))
        y = self.up(self.mlp_norm(x)).transpose(1, 2).unflatten(2, (h, w))
        x = x + self.down(F.gelu(self.dw(y).flatten(2).transpose(1, 2)))
        return self.head(self.last(x).transpose(1, 2).reshape(b, -1, h, w))


class Attended(nn.Module):
    """Attention over the pixels of a map, in one of the forms that people write."""

    def __init__(self, form="matmul"):
        super().__init__()
        self.a, self.b, self.head, self.form = block(3, 16), nn.Conv2d(16, 16, 3, 4, 1), nn.Conv2d(16, 5, 1), form

    def forward(self, x):
        x = self.b(self.a(x))
        t = x.flatten(2).transpose(1, 2)
        if self.form == "fused":
            t = F.scaled_dot_product_attention(t, t, t, scale=1.0)
        elif self.form == "bmm":
            t = torch.bmm(torch.softmax(torch.bmm(t, t.transpose(1, 2)), -1), t)
        elif self.form == "einsum":
            t = torch.einsum("bnm,bmc->bnc", torch.softmax(torch.einsum("bnc,bmc->bnm", t, t), -1), t)
        else:
            t = torch.matmul(torch.softmax(torch.matmul(t, t.transpose(1, 2)), -1), t)
        return self.head(t.transpose(1, 2).reshape(x.shape))


class ExpandedGate(nn.Module):
    """Squeeze and excitation as most people write it, and a scale that is no buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 12), nn.Conv2d(12, 5, 1)
        self.fc = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16), nn.Sigmoid())
        self.gain = torch.linspace(0.5, 1.5, 12).view(1, 12, 1, 1)

    def forward(self, x):
        x = self.a(x)
        b, c, _, _ = x.shape
        gate = self.fc(x.mean((2, 3)).view(b, c)).view(b, c, 1, 1)
        return self.head(self.b(x * gate.expand_as(x)) * self.gain)


class OwnConvolution(nn.Module):
    """A layer that keeps its weight itself; some do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), nn.Module(), block(12, 8), nn.Conv2d(8, 5, 1)
        self.b.weight = nn.Parameter(torch.randn(12, 16, 3, 3) / 12)

    def forward(self, x):
        return self.head(self.c(F.relu(F.conv2d(self.a(x), self.b.weight, None, 1, 1))))


class PixelGate(nn.Module):
    """PIDNet's gate: the sum over two embeddings' products, with a resize by nearest and a strided mean before it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 12), block(3, 12), nn.Conv2d(12, 5, 1)
        self.x, self.y = nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 1)

    def forward(self, x):
        a, b = self.a(x), F.interpolate(F.avg_pool2d(self.b(x), 5, 2, 2), size=x.shape[-2:])
        gate = torch.sigmoid((self.x(a) * self.y(b)).sum(1, keepdim=True))
        return self.head((1 - gate) * a + gate * b)


class Same(nn.Conv2d):
    """Zeros by its own hand, as ports of TensorFlow's networks pad."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class SamePadded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), Same(16, 12, 3, 2, bias=False), nn.Conv2d(12, 5, 1)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x):
        return self.head(F.silu(self.norm(self.b(self.a(x)))))


class Blurred(nn.Module):
    """A depthwise filter that is a buffer, and whose module knows by itself how many channels there are."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 8), block(8, 12), nn.Conv2d(12, 5, 1)
        self.register_buffer("blur", torch.ones(8, 1, 3, 3) / 9)
        self.channels = 8

    def forward(self, x):
        return self.head(self.b(F.conv2d(self.a(x), self.blur, None, 2, groups=self.channels)))


class Standardised(nn.Module):
    """A convolution whose weight is made while it runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 8), nn.Conv2d(8, 12, 3), block(12, 8), nn.Conv2d(8, 5, 1)
        self.gain = nn.Parameter(torch.ones(12, 1, 1, 1))

    def forward(self, x):
        flat = self.b.weight.reshape(1, 12, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain.view(-1), training=True).reshape_as(self.b.weight)
        return self.head(self.c(F.conv2d(self.a(x), weight, self.b.bias)))


class OddForms(nn.Module):
    """A number where a tensor is usual, and a resize over channels that lie in two axes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 16), block(16, 8), block(8, 6), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.shape
        x = F.interpolate(x.view(n, 4, c // 4, h * w), size=(c // 4, h * w // 4)).reshape(n, c, h // 2, w // 2)
        return self.head(self.c(torch.pow(1.5, -self.b(x))))


class Separable(nn.Module):
    """Pointwise, norm, depthwise, norm; the last norm has no scale."""

    def __init__(self):
        super().__init__()
        self.a, self.depth, self.b = block(3, 12), block(12, 12, groups=12), nn.Conv2d(12, 10, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(10, affine=False), nn.Conv2d(10, 5, 1)

    def forward(self, x):
        return self.head(input=F.relu(self.norm(self.b(input=self.depth(self.a(x))))))


NETS = [
    Residual, Unpool, Grouped, ChannelShuffle, ChunkCat, SplitFixed, PixelShuffle, Transposed, Twice, SqueezeExcite,
    ZeroPadded, TwoOutputs, Flattened, UnknownOperator, Normed, Tokens, PixelGate, SamePadded, Blurred, Standardised, OddForms,
    Separable, Attended, ExpandedGate, OwnConvolution,
]  # fmt: skip


class BranchWeights(nn.Module):
    """Two maps, mixed by weights that hang on the image."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = block(3, 16), block(16, 12), block(16, 12)
        self.w, self.head = nn.Linear(3, 2), nn.Conv2d(12, 5, 1)

    def forward(self, image):
        w = self.w(image.mean((2, 3))).softmax(1)[:, :, None, None]
        x = self.a(image)
        return self.head(self.b(x) * w[:, 0:1] + self.c(x) * w[:, 1:2])


class ScalarGate(nn.Module):
    """A map times one number that hangs on the image."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = block(3, 16), block(16, 12), nn.Conv2d(12, 5, 1)
        self.g = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()
        )

    def forward(self, x):
        x = self.a(x)
        return self.head(self.b(x) * self.g(x))


class SharedNorm(nn.Module):
    """One norm behind two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            block(3, 16),
            nn.Conv2d(16, 12, 3, padding=1, bias=False),
            nn.Conv2d(16, 12, 1, bias=False),
        )
        self.n, self.head = nn.BatchNorm2d(12), nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.a(x)
        return self.head(F.relu(self.n(self.b(x)) + self.n(self.c(x))))


class Looped(nn.Module):
    """The same depthwise convolution and norm, twice in a row."""

    def __init__(self):
        super().__init__()
        self.a, self.d = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.n, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = self.a(x)
        for _ in range(2):
            x = F.relu(self.n(self.d(x)))
        return self.head(x)
