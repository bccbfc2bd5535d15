"""JetPack, L4T, TensorRT and what precision is made of there: one row a release, each with its source. stdlib only.

`flags`: TensorRT takes precision by builder flags. `typed`: it takes the types of the graph (strongly typed). `opset`: the
newest ONNX operators that its parser promises to read (onnx-tensorrt docs/operators.md of 8.2, 8.5, 8.6, 9.2). None: unknown.
"""

from collections import namedtuple

Release = namedtuple("Release", "jetpack l4t boards cuda tensorrt python precision opset dla source")

_TORCH_TRT = "pytorch/TensorRT docs/getting_started/jetpack.rst"
_STATS = "rbonghi/jetson_stats jetson_variables.py"
_MIGRATION = "docs.nvidia.com/deeplearning/tensorrt/11.4.1: migration tensorrt-10x-to-11x-jetson"
_FLAGS = "the Python bindings of 8.5.3: BuilderFlag.FP16 is there, STRONGLY_TYPED is not"
_BOTH = "the Python bindings of 10.3.0 and 10.13.3: BuilderFlag.FP16 and STRONGLY_TYPED are both there"

RELEASES = (
    Release("4.6", ("32.6", "32.7"), ("Nano", "TX2", "Xavier"), "10.2", "8.0.1 / 8.2.1", "3.6", ("flags",), 13, True,
            "developer.nvidia.com/jetpack-sdk-461; " + _STATS),
    Release("5.0", ("34", "35.1"), ("Xavier", "Orin"), "11.4", "8.4.1", "3.8", ("flags",), None, True,
            "developer.nvidia.com/embedded/jetpack-sdk-502"),
    Release("5.1", ("35.2", "35.3", "35.4", "35.5", "35.6"), ("Xavier", "Orin"), "11.4", "8.5.2", "3.8", ("flags",), 17, True,
            _STATS + "; " + _FLAGS),
    Release("6.0", ("36.2", "36.3"), ("Orin",), "12.2", "8.6.2", "3.10", ("flags",), 17, True,
            "TensorRT not verified; " + _STATS),
    Release("6.1", ("36.4.0",), ("Orin",), "12.6", "10.3", "3.10", ("flags", "typed"), None, True, _TORCH_TRT + "; " + _BOTH),
    Release("6.2", ("36.4", "36.5"), ("Orin",), "12.6", "10.3", "3.10", ("flags", "typed"), None, True,
            _STATS + "; " + _BOTH),
    Release("7.0", ("38.2",), ("Thor",), "13.0", "10.13.3", "3.12", ("flags", "typed"), None, False,
            "NVIDIA/TensorRT-Edge-LLM support matrix; " + _BOTH),
    Release("7.1", ("38.4",), ("Thor",), "13.0", "10.13.3", "3.12", ("flags", "typed"), None, False,
            "NVIDIA/TensorRT-Edge-LLM support matrix; " + _BOTH),
    Release("7.2", ("39",), ("Thor", "Orin"), "13.2", None, "3.12", ("typed",), None, None,
            "TensorRT's exact build is not known; from 7.2.2 on AGX Orin and Thor may take 11.4.1: " + _MIGRATION),
)  # fmt: skip


def release_of(l4t):
    """The row of an L4T version such as "36.4.7", the most exact one; None where the table has none."""
    fits = [
        (len(prefix), row)
        for row in RELEASES
        for prefix in row.l4t
        if l4t == prefix or (l4t or "").startswith(prefix + ".")
    ]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def faults(tensorrt, l4t):
    """What is known to go wrong with this TensorRT on this L4T, a line each."""
    said, version = [], tuple(int(part) for part in tensorrt.split(".")[:2])
    release = release_of(l4t)
    if version >= (11, 0) and release and release.jetpack < "7.2":
        said.append(
            "TensorRT %s is not supported on JetPack %s; stay on 10.x (%s)" % (tensorrt, release.jetpack, _MIGRATION)
        )
    if (11, 0) <= version < (11, 3):
        said.append(
            "strongly typed FP16 grouped convolutions may not build (NVIDIA/TensorRT#4838); they are kept in FP32"
        )
    if version == (11, 2):
        said.append("FP16 may be silently wrong where a fused convolution reads a concatenation (NVIDIA/TensorRT#4854)")
    if version == (10, 13) and release and "Thor" in release.boards:
        said.append(
            "wrong results are reported on Thor (NVIDIA/TensorRT-Edge-LLM#105, ultralytics#22873); trust the parity check"
        )
    return said
