"""What an engine file is bound to, written beside it; an engine whose surroundings have changed is refused. stdlib only."""

import hashlib
import json
import os


def sha256(path):
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def key(onnx, backend, precision, gpu, machine, settings):
    """The engine's key: a change of any of it wants a new build.

    Args:
        onnx: the graph's path. backend: name and full version. gpu: `cuda_runtime.Cuda.device()`. machine: `board.fingerprint()`.
        settings: what the builder was told.
    """
    return {
        "onnx": sha256(onnx), "backend": backend, "precision": precision, "gpu": gpu, "driver": machine.get("driver"),
        "board": machine.get("board"), "l4t": machine.get("l4t"), "power_mode": machine.get("power_mode"), "settings": settings,
    }  # fmt: skip


def differences(kept, now):
    """["l4t was 36.4.3, now 36.4.7", …]; empty where an engine still fits."""
    names = sorted(set(kept) | set(now))
    return [
        "%s was %s, now %s" % (name, _short(kept.get(name)), _short(now.get(name)))
        for name in names
        if kept.get(name) != now.get(name)
    ]


def _short(value):
    text = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= 60 else text[:12] + "…"


def write(plan, path, now, facts):
    """Write an engine and its sidecar; the sidecar goes last, so an engine without one is none."""
    for name, content in ((path, plan), (path + ".json", None)):
        if content is None:
            told = {"schema": 1, "plan": hashlib.sha256(plan).hexdigest(), "key": now, "facts": facts}
            content = json.dumps(told, indent=1).encode()
        with open(name + ".part", "wb") as handle:
            handle.write(content)
        os.replace(name + ".part", name)


def read(path, now):
    """(plan, facts, None) of an engine that fits; (None, None, reason) of one that is missing, damaged or stale."""
    try:
        with open(path + ".json") as handle:
            told = json.load(handle)
        with open(path, "rb") as handle:
            plan = handle.read()
    except FileNotFoundError:
        return None, None, "no engine has been built yet"
    except (OSError, ValueError) as error:
        return None, None, "%s cannot be read (%s)" % (path, error)
    if hashlib.sha256(plan).hexdigest() != told.get("plan"):
        return None, None, "%s is damaged (its checksum differs)" % path
    stale = differences(told.get("key", {}), now)
    return (None, None, "the engine is stale: " + "; ".join(stale)) if stale else (plan, told.get("facts", {}), None)
