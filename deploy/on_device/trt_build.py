"""How TensorRT builds: by which route it gets a precision, all that the builder is told, and what it says it has built."""

import os

import layers

LEVEL = 3  # builder_optimization_level, TensorRT's default, pinned
GIVEN = "torch_tensorrt"  # the route of an engine that lies beside its graph and is taken as built


def route(trt, path, precision):
    """(graph, way) by which this TensorRT gives the precision: "typed" the graph's own types, "flags" the builder's, GIVEN
    an engine in the graph's place.

    Raises:
        ValueError: it has no way, or the graph for it is missing.
    """
    name = "%s.%s" % (path[: -len(".onnx")], precision)
    given, typed_graph, flags_graph = (name + end for end in (".engine", ".onnx", ".flags.onnx"))
    if os.path.exists(given):
        return given, GIVEN
    can_type = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    flag = {"f16": "FP16", "int8": "INT8", "bf16": "BF16"}.get(precision)
    has_flag = flag is not None and hasattr(trt.BuilderFlag, flag)
    if precision == "f32":
        return path, "typed" if can_type and not hasattr(trt.BuilderFlag, "FP16") else "flags"
    if can_type and os.path.exists(typed_graph):
        return typed_graph, "typed"
    if precision == "int8" and has_flag and os.path.exists(flags_graph):
        return flags_graph, "flags"  # Q/DQ nodes with f32 steps, as 8.x reads them; the flag allows INT8 kernels
    if precision == "int8":
        raise ValueError(
            "int8 on TensorRT wants a graph with Q/DQ nodes (%s), which is not here; use f16"
            % (typed_graph if can_type else flags_graph)
        )
    if has_flag:
        return path, "flags"
    raise ValueError(
        "TensorRT %s takes its precision from the graph, and %s is not here; make the bundle again with "
        "deploy.precision=%s" % (trt.__version__, os.path.basename(typed_graph), precision)
    )


def build(trt, log, graph, precision, way, workspace_mb, dla, cache):
    """(plan, facts). The timing cache, a file or None, makes the next build on this device quicker and alike."""
    builder = trt.Builder(log)
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if way == "typed":
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if hasattr(trt.ICudaEngine, "num_bindings"):  # until 9; the parser of 10 reads axes as they are
        refuse_misread(trt, graph)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(graph):
        faults = "; ".join(str(parser.get_error(i)).strip() for i in range(parser.num_errors))
        raise RuntimeError("TensorRT %s cannot read %s: %s" % (trt.__version__, graph, faults))
    config = builder.create_builder_config()
    configure(trt, builder, config, precision, way, workspace_mb, dla)
    held = timing_cache(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT cannot build an engine of %s%s" % (graph, last_word(log.kept)))
    if held is not None and cache:
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        with open(cache + ".part", "wb") as handle:
            handle.write(bytes(config.get_timing_cache().serialize()))
        os.replace(cache + ".part", cache)
    return plan, {"route": way, "level": LEVEL, "bytes": plan.nbytes, "timing_cache": held}


def refuse_misread(trt, graph):
    """Raise ValueError where TensorRT 8 would silently compute something else (NVIDIA/TensorRT#3467).

    From opset 18 on the axes of ReduceMean, ReduceMax, … are an input. Its parser looks for the attribute that they were
    before, finds none and reduces over all axes. Of ReduceSum it reads the input.
    """
    with open(graph, "rb") as handle:
        nodes = read_nodes(handle.read())
    found = [
        "%s (%s)" % (name, kind)
        for kind, name, inputs in nodes
        if kind.startswith("Reduce") and kind != "ReduceSum" and len(inputs) > 1 and inputs[1]
    ]
    if found:
        which = found[0] + (" and %d more" % (len(found) - 1) if found[1:] else "")
        raise ValueError(
            "TensorRT %s does not read the axes of %s in %s and would reduce over all; it takes TensorRT 10 (JetPack 6.1 "
            "or later), or a network without" % (trt.__version__, which, os.path.basename(graph))
        )


def read_nodes(content):
    """[(kind, name, inputs)] of an ONNX file's nodes, by protobuf's wire format; there is no onnx package on a board."""
    nodes = []
    for graph in (part for number, part in protobuf_parts(memoryview(content)) if number == 7):
        for node in (part for number, part in protobuf_parts(graph) if number == 1):
            texts = {1: [], 2: [], 3: [""], 4: [""]}  # inputs, outputs, name, kind
            for number, part in protobuf_parts(node):
                if number in texts:
                    texts[number].append(bytes(part).decode(errors="replace"))
            nodes.append((texts[4][-1], texts[3][-1], texts[1]))
    return nodes


def protobuf_parts(message):
    """(field's number, content) of a message's strings and messages; up to where it is damaged, which is the parser's to say."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        try:
            key = varint()
            size = varint() if key & 7 in (0, 2) else {1: 8, 5: 4}[key & 7]
        except (IndexError, KeyError):
            return
        if key & 7 == 0:
            continue
        if key & 7 == 2:
            yield key >> 3, message[at : at + size]
        at += size


def configure(trt, builder, config, precision, way, workspace_mb, dla):
    """Everything that the builder is told; what it is not told here, its version decides."""
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and no f32
    config.set_flag(
        trt.BuilderFlag.SPARSE_WEIGHTS
    )  # 2:4 kernels where weights are 2:4 and that is faster; else nothing
    if way == "flags" and precision in ("f16", "int8"):
        config.set_flag(trt.BuilderFlag.FP16)
    if way == "flags" and precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if way == "flags" and precision == "bf16":
        config.set_flag(trt.BuilderFlag.BF16)
    if workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_mb) << 20)
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = LEVEL
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells no types
    if dla is None:
        return
    cores = getattr(builder, "num_DLA_cores", 0)
    if cores <= dla:
        raise RuntimeError("no DLA core %d here: TensorRT %s sees %d on this board" % (dla, trt.__version__, cores))
    config.default_device_type, config.DLA_core = trt.DeviceType.DLA, dla
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # silent by itself: see `layers.placement`


def timing_cache(config, path):
    """Give the builder this device's timing cache: "kept", "new" or, where the file was not taken, "refused, new"."""
    content = b""
    if path and os.path.exists(path):
        with open(path, "rb") as handle:
            content = handle.read()
    if content and config.set_timing_cache(config.create_timing_cache(content), False):
        return "kept"
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return "refused, new" if content else "new"


def reading_of_log(log, dla):
    """Facts that only the builder's messages tell."""
    facts = {"skipped_tactics": layers.skipped_tactics(log), "sparse": layers.sparse(log)}
    if dla is not None:
        facts["placement"] = layers.placement(log)
        if not facts["placement"]["dla"]:
            raise RuntimeError("DLA was asked for, but the builder put no layer there; build for the GPU")
    return facts


def inspected(trt, engine):
    """The engine inspector's layers."""
    return layers.read(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def types(rows):
    """{"precision", "convolutions": {type: share of their work}} as the engine inspector tells."""
    shares = layers.convolution_types(rows)
    return {"precision": layers.found(shares), "convolutions": shares}


def last_word(log):
    """The last message, to stand behind an error."""
    return ": %s" % log[-1].strip().splitlines()[-1] if log else ""
