"""`torch_tensorrt.dynamo` without a GPU: the signatures of its sources, as far as they are used, around the ONNX exporter.

A plan of the fake TensorRT is a graph's bytes, so this "engine" runs behind it. As in the sources, an engine tells its types only
if a Debugger was open, an output is called output0, and nothing casts to uint8.
"""

import warnings

import torch

OPEN: list[dict] = []  # debuggers


class Debugger:
    def __init__(
        self, log_level="debug", capture_fx_graph_before=None, capture_fx_graph_after=None, save_engine_profile=False,
        profile_format="perfetto", engine_builder_monitor=True, logging_dir=None, save_layer_info=False,
    ):  # fmt: skip
        self.told = {"log_level": log_level, "monitor": engine_builder_monitor, "logs": logging_dir}

    def __enter__(self):
        OPEN.append(self.told)

    def __exit__(self, *error):
        OPEN.pop()


def convert_exported_program_to_serialized_trt_engine(
    exported_program, inputs=None, *, arg_inputs=None, kwarg_inputs=None, device=None, disable_tf32=False,
    workspace_size=0, optimization_level=None, **kwargs,
) -> bytes:  # fmt: skip
    assert OPEN, "the engine would tell no types"
    assert disable_tf32 and len(arg_inputs) == 1
    for node in exported_program.run_decompositions().graph.nodes:
        if node.target == torch.ops.aten._to_copy.default and node.kwargs.get("dtype") == torch.uint8:
            warnings.warn(
                "Interpretation will fail due to missing operations \ncall_function torch.ops.aten._to_copy.default",
                stacklevel=1,
            )
            raise RuntimeError("Conversion of module GraphModule()\n\n\n not currently fully supported or convertible!")
    made = torch.onnx.export(exported_program, tuple(arg_inputs), dynamo=True, verbose=False)
    model = made.model_proto
    first = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["output0" if name == first else name for name in node.output]
    model.graph.output[0].name = "output0"
    return model.SerializeToString()
