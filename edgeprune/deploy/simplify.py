"""Simplify an ONNX graph by onnxsim, in a process of its own (it may crash or hang), and believe it only after a check.

onnxsim says ok without comparing anything unless it is told to; here both graphs run on real images, and the logits before
the argmax are compared as well as the classes. Whatever fails, the unsimplified graph is kept, and said so.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgeprune.errors import first_line
from edgeprune.files import write_atomic
from edgeprune.progress import doing
from edgeprune.runtime.onnxruntime import OnnxRuntimeEngine

_CODE = (  # onnxsim imports torch if it is there, which takes longer than most graphs do, and makes no use of it here
    "import sys; sys.path[:] = filter(None, sys.path)\n"  # not beside whatever lies in the working folder
    "sys.modules['torch'] = None; import onnx, onnxsim\n"
    "m, ok = onnxsim.simplify(sys.argv[1], check_n=0); assert ok; onnx.save(m, sys.argv[2])"
)
_TOLERANCE = 1e-3  # of the logits' spread


@dataclass(frozen=True)
class Simplified:
    """What became of it. `kept` says why the unsimplified graph was kept; `difference` is of the logits' spread."""

    nodes_before: int
    nodes_after: int
    difference: float | None
    agreement: float | None
    kept: str | None


@doing("simplifying")
def simplify(source: Path, target: Path, images: np.ndarray, seconds: float = 600) -> Simplified:
    """Write the simplified graph of `source` to `target`, or `source` itself where simplifying fails the check.

    Args:
        images: (N, H, W, 3) uint8, real ones, for the check.
        seconds: time limit.
    """
    before = len(onnx.load(source).graph.node)
    attempt = target.with_name(f".{target.name}.onnxsim")
    attempt.parent.mkdir(parents=True, exist_ok=True)
    try:
        why = _run(source, attempt, seconds)
        difference = agreement = None
        if why is None:
            try:
                difference, agreement = compare(source, attempt, images)
                if not np.isfinite(difference):
                    difference, why = None, "the logits are not finite: nothing can be compared"
                elif not (difference <= _TOLERANCE and agreement >= 0.999):
                    why = f"the simplified graph differs: {difference:.1e} of the logits, {agreement:.4%} of the classes agree"
            except Exception as error:  # ONNX Runtime's have no common class
                why = f"the simplified graph cannot be run: {first_line(error)[:160]}"
        chosen = source if why else attempt
        write_atomic(target, chosen.read_bytes())
        return Simplified(before, len(onnx.load(target).graph.node), difference, agreement, why)
    finally:
        attempt.unlink(missing_ok=True)


def _run(source: Path, attempt: Path, seconds: float) -> str | None:
    command = [sys.executable, "-c", _CODE, str(source), str(attempt)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"onnxsim took longer than {seconds:.0f} s"
    if done.returncode == 0 and attempt.exists():
        return None
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"onnxsim ended with status {done.returncode}: {last[:160]}"


def compare(a: Path, b: Path, images: np.ndarray) -> tuple[float, float]:
    """(greatest difference of the logits over their spread, share of places with the same class), by ONNX Runtime.

    Of a graph that gives raw heads these are what is compared, and the class is the highest of the last axis.
    """
    engines = []
    for path in (a, b):
        beside = path.with_name(f".{path.name}.logits")
        try:
            onnx.save(with_logits(onnx.load(path)), beside)
            engines.append(OnnxRuntimeEngine(beside))
        finally:
            beside.unlink(missing_ok=True)
    worst, same = 0.0, []
    for image in images:
        found = [e.outputs(image[None]) for e in engines]
        logits_a, logits_b = (o[min(1, len(o) - 1)] for o in found)
        classes_a, classes_b = (o[0] if len(o) > 1 else o[0].argmax(-1) for o in found)
        worst = float(np.maximum(worst, np.abs(logits_a - logits_b).max() / max(float(logits_a.std()), 1e-12)))
        same.append(float((classes_a == classes_b).mean()))
    return worst, float(np.mean(same))


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with what enters its argmax as a second output; as it is where it gives logits already."""
    outputs = model.graph.output
    if len(outputs) > 1 or outputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        return model
    name = _logits(model.graph)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


def _logits(graph: onnx.GraphProto) -> str:
    """What the head reads: the argmax's input, or the tensor that a chain of comparisons takes class by class."""
    for node in reversed(graph.node):
        if node.op_type == "ArgMax":
            return str(node.input[0])
    taken = Counter(n.input[0] for n in graph.node if n.op_type in ("Gather", "Slice"))
    return str(taken.most_common(1)[0][0])
