"""Networks as public repositories write them, from their papers' descriptions; narrow, for tests."""

import torch
import torch.nn.functional as F
from torch import nn


def conv_norm(inp, out, kernel=3, act=nn.ReLU, **kw):
    """Convolution without bias, norm, activation."""
    pair = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    rate = kw.get("dilation", 1)
    kw.setdefault("padding", tuple(rate * (k // 2) for k in pair))
    return nn.Sequential(nn.Conv2d(inp, out, kernel, bias=False, **kw), nn.BatchNorm2d(out), act())


# ENet (Paszke et al. 2016): one slope a PReLU, zeros made by torch.zeros beside the pooled map, activation behind each norm


class ENetRegular(nn.Module):
    def __init__(self, width, act, dilation=1, long=False, drop=0.1):
        super().__init__()
        inner = width // 4
        middle = [conv_norm(inner, inner, 3, act, dilation=dilation)]
        if long:
            middle = [conv_norm(inner, inner, (5, 1), act), conv_norm(inner, inner, (1, 5), act)]
        self.branch = nn.Sequential(
            conv_norm(width, inner, 1, act), *middle, conv_norm(inner, width, 1, act), nn.Dropout2d(drop)
        )
        self.act = act()

    def forward(self, x):
        return self.act(x + self.branch(x))


class ENetDown(nn.Module):
    def __init__(self, inp, out, act):
        super().__init__()
        inner = inp // 4
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.branch = nn.Sequential(
            conv_norm(inp, inner, 2, act, stride=2, padding=0), conv_norm(inner, inner, 3, act),
            conv_norm(inner, out, 1, act), nn.Dropout2d(0.01),
        )  # fmt: skip
        self.act = act()

    def forward(self, x):
        main, places = self.pool(x)
        branch = self.branch(x)
        n, wide, h, w = branch.shape
        main = torch.cat((main, torch.zeros(n, wide - main.shape[1], h, w)), 1)
        return self.act(main + branch), places


class ENetUp(nn.Module):
    def __init__(self, inp, out, act):
        super().__init__()
        inner = inp // 4
        self.main = nn.Sequential(nn.Conv2d(inp, out, 1, bias=False), nn.BatchNorm2d(out))
        self.unpool = nn.MaxUnpool2d(2)
        self.narrow, self.up = conv_norm(inp, inner, 1, act), nn.ConvTranspose2d(inner, inner, 2, 2, bias=False)
        self.norm, self.act = nn.BatchNorm2d(inner), act()
        self.wide = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out), nn.Dropout2d(0.1))

    def forward(self, x, places, size):
        main = self.unpool(self.main(x), places, output_size=size)
        branch = self.act(self.norm(self.up(self.narrow(x), output_size=size)))
        return self.act(main + self.wide(branch))


class ENet(nn.Module):
    def __init__(self, classes=5, encoder=nn.PReLU, decoder=nn.ReLU, widths=(8, 16, 32)):
        super().__init__()
        a, b, c = widths
        self.main, self.side = nn.Conv2d(3, a - 3, 3, 2, 1, bias=False), nn.MaxPool2d(3, 2, 1)
        self.norm, self.act = nn.BatchNorm2d(a), encoder()
        self.down1, self.stage1 = ENetDown(a, b, encoder), ENetRegular(b, encoder)
        self.down2 = ENetDown(b, c, encoder)
        self.stage2 = nn.Sequential(
            ENetRegular(c, encoder), ENetRegular(c, encoder, dilation=2),
            ENetRegular(c, encoder, long=True), ENetRegular(c, encoder, dilation=4),
        )  # fmt: skip
        self.up4, self.stage4 = ENetUp(c, b, decoder), ENetRegular(b, decoder)
        self.up5, self.stage5 = ENetUp(b, a, decoder), ENetRegular(a, decoder)
        self.last = nn.ConvTranspose2d(a, classes, 3, 2, 1, bias=False)

    def forward(self, image):
        size = image.size()
        x = self.act(self.norm(torch.cat((self.main(image), self.side(image)), 1)))
        half = x.size()
        x, first = self.down1(x)
        x = self.stage1(x)
        quarter = x.size()
        x, second = self.down2(x)
        x = self.stage4(self.up4(self.stage2(x), second, output_size(quarter)))
        x = self.stage5(self.up5(x, first, output_size(half)))
        return self.last(x, output_size=output_size(size))


def output_size(size):
    """Height and width, which is what (un)pooling and transposed convolutions are told."""
    return list(size)[-2:]


# DABNet (Li et al. 2019): BN and PReLU before, two asymmetric depthwise branches, the input pooled beside each stage


class NormPReLU(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(width, eps=1e-3), nn.PReLU(width)

    def forward(self, x):
        return self.act(self.norm(x))


class DABModule(nn.Module):
    def __init__(self, width, rate):
        super().__init__()
        inner = width // 2
        self.first, self.narrow = NormPReLU(width), nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.before, self.after = NormPReLU(inner), NormPReLU(inner)
        self.near = self._pair(inner, 1)
        self.far = self._pair(inner, rate)
        self.wide = nn.Conv2d(inner, width, 1, bias=False)

    @staticmethod
    def _pair(width, rate):
        return nn.Sequential(
            nn.Conv2d(width, width, (3, 1), padding=(rate, 0), dilation=(rate, 1), groups=width, bias=False),
            NormPReLU(width),
            nn.Conv2d(width, width, (1, 3), padding=(0, rate), dilation=(1, rate), groups=width, bias=False),
            NormPReLU(width),
        )

    def forward(self, x):
        y = self.before(self.narrow(self.first(x)))
        return self.wide(self.after(self.near(y) + self.far(y))) + x


class DABNet(nn.Module):
    def __init__(self, classes=5, width=16):
        super().__init__()
        self.start = conv_norm(3, width, 3, lambda: nn.PReLU(width), stride=2)
        self.shrink, self.norm1 = nn.AvgPool2d(3, 2, 1), NormPReLU(width + 3)
        self.down1 = nn.Conv2d(width + 3, width - 3, 3, 2, 1, bias=False)
        self.pool = nn.MaxPool2d(2, 2)
        self.norm2, self.block1 = NormPReLU(2 * width), nn.Sequential(DABModule(2 * width, 2), DABModule(2 * width, 2))
        self.norm3, self.down2 = NormPReLU(4 * width + 3), nn.Conv2d(4 * width + 3, 2 * width, 3, 2, 1, bias=False)
        self.norm4, self.block2 = NormPReLU(2 * width), nn.Sequential(DABModule(2 * width, 4))
        self.norm5, self.head = NormPReLU(4 * width + 3), nn.Conv2d(4 * width + 3, classes, 1, bias=False)

    def forward(self, image):
        half = self.shrink(image)
        quarter = self.shrink(half)
        eighth = self.shrink(quarter)
        x = self.norm1(torch.cat([self.start(image), half], 1))
        x = self.norm2(torch.cat([self.down1(x), self.pool(x)], 1))
        x = self.norm3(torch.cat([self.block1(x), x, quarter], 1))
        x = self.norm4(self.down2(x))
        x = self.norm5(torch.cat([self.block2(x), x, eighth], 1))
        return F.interpolate(self.head(x), image.size()[2:], mode="bilinear", align_corners=False)


# LEDNet (Wang et al. 2019): halves by chunk, asymmetric pairs, shuffle; a pyramid of attention as decoder


def shuffled(x, groups):
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class SplitShuffle(nn.Module):
    def __init__(self, width, rate):
        super().__init__()
        self.left, self.right = self._side(width // 2, rate, (3, 1)), self._side(width // 2, rate, (1, 3))

    @staticmethod
    def _side(width, rate, kernel):
        other = kernel[::-1]
        return nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=tuple(k // 2 for k in kernel)), nn.ReLU(inplace=True),
            conv_norm(width, width, other),
            nn.Conv2d(width, width, kernel, padding=tuple(rate * (k // 2) for k in kernel), dilation=rate),
            nn.ReLU(inplace=True), nn.Conv2d(width, width, other, padding=tuple(rate * (k // 2) for k in other), dilation=rate),
            nn.BatchNorm2d(width), nn.Dropout2d(0.1),
        )  # fmt: skip

    def forward(self, x):
        left, right = torch.chunk(x, 2, dim=1)
        return shuffled(F.relu(torch.cat([self.left(left), self.right(right)], 1) + x), 2)


class LEDDown(nn.Module):
    def __init__(self, inp, out):
        super().__init__()
        self.conv, self.pool, self.norm = nn.Conv2d(inp, out - inp, 3, 2, 1), nn.MaxPool2d(2, 2), nn.BatchNorm2d(out)

    def forward(self, x):
        return F.relu(self.norm(torch.cat([self.conv(x), self.pool(x)], 1)))


class AttentionPyramid(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.whole, self.middle = conv_norm(width, classes, 1), conv_norm(width, classes, 1)
        self.down1, self.down2 = conv_norm(width, 1, 7, stride=2), conv_norm(1, 1, 5, stride=2)
        self.side1, self.side2 = conv_norm(1, 1, 7), conv_norm(1, 1, 5)

    def forward(self, x):
        size = x.shape[2:]
        whole = F.interpolate(self.whole(F.adaptive_avg_pool2d(x, 1)), size, mode="bilinear", align_corners=True)
        one = self.down1(x)
        two = F.interpolate(self.side2(self.down2(one)), one.shape[2:], mode="bilinear", align_corners=True)
        gate = F.interpolate(self.side1(one) + two, size, mode="bilinear", align_corners=True)
        return self.middle(x) * gate + whole


class LEDNet(nn.Module):
    def __init__(self, classes=5, width=16):
        super().__init__()
        self.encoder = nn.Sequential(
            LEDDown(3, width), SplitShuffle(width, 1), LEDDown(width, 2 * width), SplitShuffle(2 * width, 1),
            SplitShuffle(2 * width, 2),
        )  # fmt: skip
        self.decoder = AttentionPyramid(2 * width, classes)

    def forward(self, image):
        x = self.decoder(self.encoder(image))
        return F.interpolate(x, size=image.shape[2:], mode="bilinear", align_corners=True)


# BiSeNet (Yu et al. 2018): a detailed and a contextual path, attention refinement, feature fusion


class Refinement(nn.Module):
    def __init__(self, inp, out):
        super().__init__()
        self.conv = conv_norm(inp, out)
        self.gate = nn.Sequential(nn.Conv2d(out, out, 1, bias=False), nn.BatchNorm2d(out), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        return torch.mul(x, self.gate(F.avg_pool2d(x, x.size()[2:])))


class BiSeNet(nn.Module):
    def __init__(self, classes=5, width=16):
        super().__init__()
        self.detail = nn.Sequential(conv_norm(3, width, 7, stride=2), conv_norm(width, width, stride=2))
        self.stem = nn.Sequential(conv_norm(3, width, stride=2), nn.MaxPool2d(3, 2, 1))
        self.deep8, self.deep16 = conv_norm(width, width, stride=2), conv_norm(width, 2 * width, stride=2)
        self.refine8, self.refine16 = Refinement(width, width), Refinement(2 * width, width)
        self.whole, self.up8, self.up16 = (
            conv_norm(2 * width, width, 1),
            conv_norm(width, width),
            conv_norm(width, width),
        )
        self.fuse = conv_norm(2 * width, 2 * width, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, 2 * width, 1), nn.Sigmoid()
        )
        self.head = nn.Sequential(conv_norm(2 * width, width), nn.Conv2d(width, classes, 1, bias=False))

    def forward(self, image):
        detail, x8 = self.detail(image), self.deep8(self.stem(image))
        x16 = self.deep16(x8)
        whole = F.interpolate(self.whole(x16.mean(dim=(2, 3), keepdim=True)), x16.size()[2:], mode="nearest")
        x = self.up16(F.interpolate(self.refine16(x16) + whole, x8.size()[2:], mode="nearest"))
        x = self.up8(F.interpolate(self.refine8(x8) + x, detail.size()[2:], mode="nearest"))
        x = self.fuse(torch.cat([detail, x], dim=1))
        x = x * self.gate(x.mean((2, 3), keepdim=True)) + x
        return F.interpolate(self.head(x), image.size()[2:], mode="bilinear", align_corners=True)


# U-Net (Ronneberger et al. 2015): as most people write it today, transposed convolutions and skips padded to fit


class Double(nn.Sequential):
    def __init__(self, inp, out, middle=None):
        super().__init__(conv_norm(inp, middle or out), conv_norm(middle or out, out))


class UNetUp(nn.Module):
    def __init__(self, inp, out):
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(inp, inp // 2, 2, 2), Double(inp, out)

    def forward(self, x, skip):
        x = self.up(x)
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    def __init__(self, classes=5, width=8):
        super().__init__()
        self.inc, self.pool = Double(3, width), nn.MaxPool2d(2)
        self.down1, self.down2 = Double(width, 2 * width), Double(2 * width, 4 * width)
        self.up1, self.up2, self.outc = (
            UNetUp(4 * width, 2 * width),
            UNetUp(2 * width, width),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(self.pool(x1))
        return self.outc(self.up2(self.up1(self.down2(self.pool(x2)), x2), x1))


# CGNet (Wu et al. 2018): local and surrounding context joined, a gate of the whole image, the image beside each stage


class ContextGuided(nn.Module):
    def __init__(self, width, rate=2):
        super().__init__()
        half = width // 2
        self.narrow = conv_norm(width, half, 1, lambda: nn.PReLU(half))
        self.near = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.far = nn.Conv2d(half, half, 3, padding=rate, dilation=rate, groups=half, bias=False)
        self.join = NormPReLU(width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width), nn.Sigmoid())

    def forward(self, x):
        y = self.narrow(x)
        y = self.join(torch.cat([self.near(y), self.far(y)], 1))
        b, c, _, _ = y.size()
        return x + y * self.fc(self.pool(y).view(b, c)).view(b, c, 1, 1)


class CGNet(nn.Module):
    def __init__(self, classes=5, width=16):
        super().__init__()
        self.stem, self.shrink = conv_norm(3, width, 3, lambda: nn.PReLU(width), stride=2), nn.AvgPool2d(3, 2, 1)
        self.norm1, self.down = (
            NormPReLU(width + 3),
            conv_norm(width + 3, 2 * width, 3, lambda: nn.PReLU(2 * width), stride=2),
        )
        self.stage, self.norm2 = (
            nn.Sequential(ContextGuided(2 * width), ContextGuided(2 * width)),
            NormPReLU(4 * width + 3),
        )
        self.head = nn.Conv2d(4 * width + 3, classes, 1, bias=False)

    def forward(self, image):
        half = self.shrink(image)
        x = self.down(self.norm1(torch.cat([self.stem(image), half], 1)))
        x = self.norm2(torch.cat([self.stage(x), x, self.shrink(half)], 1))
        return F.interpolate(self.head(x), image.size()[2:], mode="bilinear", align_corners=False)
