"""What takes a run seconds to import. It computes nothing: a process that is forked may not have threads."""

import functools
import gc

import matplotlib.pyplot  # noqa: F401
import onnxruntime  # noqa: F401
import onnxscript  # noqa: F401
import torch._dynamo
import torch.export._trace
import torch.onnx._internal.exporter._core  # noqa: F401

from tests.exporter import parse_once
from tests.patience import run_short

run_short()

import edgeprune.cli  # noqa: E402
import edgeprune.pipeline  # noqa: E402, F401
from edgeprune.models import code  # noqa: E402

_parse = functools.cache(lambda path, places, parse=code._imported: list(parse(path, places)))
code._imported = lambda path, places: _parse(path, tuple(places))
# or every run would parse all files of tests and edgeprune, to see whether its network has changed
code.files("tests.e2e.tiny")
parse_once(now=True)
gc.freeze()  # or the first collection in a fork would copy every page
