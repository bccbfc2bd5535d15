"""What TensorRT really built, from its engine inspector (JSON) and its build log: types of convolutions, DLA placement. stdlib only.

The spellings differ between versions: "Channel major FP16 format where channel % 8 == 0", "Row major linear FP32", "Half",
"Float", "Thirty-two wide channel vectorized row major Int8 format.".
"""

import json
import re

_TYPES = (
    ("int8", r"int8"),
    ("fp8", r"fp8|e4m3"),
    ("bf16", r"bf16|bfloat16"),
    ("f16", r"fp16|\bhalf\b"),
    ("f32", r"fp32|\bfloat\b|\btf32\b"),
)
_NOT = {"reformat", "noop", "constant", "shape", "shuffle", "signal", "wait"}
_SKIPPED = re.compile(r"skipping tactic .*insuff?icient memory", re.IGNORECASE)
MOST_F32 = 0.1  # share of the convolutions' multiply-adds that may stay in FP32 where FP16 or INT8 was asked for


def read(text):
    """The inspector's layers as a list of dicts; layers of which it tells only the name are {"Name": …}."""
    try:
        told = json.loads(text)
    except ValueError as error:
        raise ValueError("the engine inspector's answer is no JSON: %s" % error) from error
    rows = told.get("Layers", []) if isinstance(told, dict) else told
    return [row if isinstance(row, dict) else {"Name": str(row)} for row in rows]


def kind(spelled):
    """ "f16" of "Channel major FP16 format where channel % 8 == 0"; "unknown" of what is not known."""
    for name, pattern in _TYPES:
        if re.search(pattern, spelled or "", re.IGNORECASE):
            return name
    return "unknown"


def is_convolution(layer):
    """Is it a convolution, also one inside a fused kernel (those name the ONNX nodes that they stand for)?"""
    if str(layer.get("LayerType", "")).lower() in _NOT:
        return False
    if layer.get("ParameterType") in ("Convolution", "Deconvolution"):
        return True
    if "ParameterType" in layer:
        return False
    words = " ".join(str(layer.get(key, "")) for key in ("LayerType", "TacticName", "Metadata"))
    return bool(re.search(r"conv(?!ert)|correlation", words, re.IGNORECASE))


def type_of(layer):
    """The type that a layer computes on: of its first input, or of its weights where the inspector tells no formats."""
    for tensor in layer.get("Inputs", []):
        found = kind(tensor.get("Format/Datatype") or tensor.get("Format") or tensor.get("Datatype"))
        if found != "unknown":
            return found
    weights = layer.get("Weights")
    return kind(weights.get("Type")) if isinstance(weights, dict) else "unknown"


def macs(layer):
    """Multiply-adds of a convolution; 1 where its sizes are not told."""
    try:
        outputs, weights = layer["Outputs"][0]["Dimensions"], layer["Weights"]["Count"]
        pixels = 1
        for side in outputs[2:]:
            pixels *= side
        return max(1, outputs[0] * pixels * weights)
    except (KeyError, IndexError, TypeError):
        return 1


def convolution_types(rows):
    """{"f16": share, …} of the convolutions' multiply-adds; empty where there are none."""
    sums = {}
    for layer in filter(is_convolution, rows):
        name = type_of(layer)
        sums[name] = sums.get(name, 0) + macs(layer)
    whole = sum(sums.values())
    return {name: value / whole for name, value in sorted(sums.items())}


def found(shares):
    """The type of most multiply-adds."""
    return max(shares, key=lambda name: shares[name]) if shares else "unknown"


def refuse(asked, shares):
    """Raise ValueError where the engine is not what was asked for: an "FP16" engine of FP32 convolutions is none."""
    got = found(shares)
    if got == "unknown":
        return
    wide = shares.get("f32", 0.0)
    if asked in ("f16", "bf16", "int8") and wide > MOST_F32:
        raise ValueError(
            "%s was asked for, but %.0f %% of the convolutions' work in the engine is f32; the engine is refused"
            % (asked, 100 * wide)
        )
    if asked != got and asked in ("f32", "int8"):
        raise ValueError("%s was asked for, but the engine's convolutions are %s; the engine is refused" % (asked, got))


def timed(rows, times):
    """[name, kind, milliseconds, [ONNX nodes]]: a profiler's (name, milliseconds), in their order, with what the inspector tells."""
    told = {row.get("Name"): row for row in rows}
    return [[n, told.get(n, {}).get("LayerType", ""), ms, nodes(told.get(n) or {"Name": n})] for n, ms in times]


def nodes(layer):
    """The ONNX nodes that went into a layer: as its metadata names them (TensorRT 8.6 and later), else by its own name.

    Names join what was fused: "weight + QuantizeLinear_7 + Conv_9 + PWN(Clip_13)", "Conv_1 || Conv_2" (one kernel for both),
    "node_conv2d_myl0_4". A copy between formats ("Reformatting CopyNode for Input Tensor 0 to Conv_9") stands for no node, nor
    does "{ForeignNode[a...b]}", which tells only the first and the last.
    """
    found = re.findall(r"\[ONNX Layer: ([^\]]+)\]", layer.get("Metadata") or "")
    if found:
        return list(dict.fromkeys(found))
    name = re.sub(r"_myl\d+_\d+$", "", layer.get("Name") or "")
    if name.startswith(("Reformatting CopyNode", "{ForeignNode")):
        return []
    found = []
    for part in re.split(r" \+ | \|\| ", name):
        found += part.replace("PWN(", "").rstrip(")").split(", ") if "PWN(" in part else [part]
    return found


def placement(log):
    """Where the builder put the layers when DLA was asked for: {"dla": [names], "gpu": [names], "share": of layers}.

    Args:
        log: the builder's messages; "[DlaLayer] {ForeignNode[Conv_0...Relu_9]}" and "[GpuLayer] POOLING: /pool".
    """
    dla = [m.group(1) for m in (re.search(r"\[DlaLayer\] (.+)", line) for line in log) if m]
    gpu = [m.group(1) for m in (re.search(r"\[GpuLayer\] (.+)", line) for line in log) if m]
    return {"dla": dla, "gpu": gpu, "share": len(dla) / max(1, len(dla) + len(gpu))}


def sparse(log):
    """{"eligible", "picked"}: layers whose weights are 2:4, and those of them that run on sparse kernels, by the builder's log."""
    found = {"eligible": [], "picked": []}
    for line in log:
        head, colon, names = line.partition(":")
        if "(Sparsity)" in head and colon:
            kind = "picked" if "picked sparse implementation" in head else "eligible"
            found[kind] = [name.strip() for name in names.split(", ") if name.strip()]
    return found


def skipped_tactics(log):
    """How many ways to compute a layer the builder passed over for want of memory; other engines come out with more.

    A line each: "Skipping tactic 3 due to insuficient memory on requested size of …" (8.x spells it so). The line beside it
    ("… Device memory is insufficient to use tactic.") is of the same tactic, and other reasons to skip one are not counted.
    """
    return sum(bool(_SKIPPED.search(line)) for line in log)
