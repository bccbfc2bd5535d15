"""What lies beside the device's scripts does not run when one of them is started, whatever module it has the name of."""

import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.shipped import shipped
from edgeprune.tasks import detection

HOME = shipped("deploy/on_device")
STARTED = {  # script -> how it is started, its exit status, what it says: all of them import siblings before they get there
    "check.py": ((), 1, "SHA256SUMS is missing"),
    "play.py": (("--source", "x"), 1, "SHA256SUMS is missing"),
    "doctor.py": (("--backend", "onnxruntime", "--json"), None, '"what": "numpy'),
    "clocks.py": (("restore",), 0, "nothing to restore"),
    "agent.py": (("hello", "--backend", "onnxruntime"), 0, '"version": "onnxruntime'),
}
STRAY = "open({!r}, 'a').write(__file__ + ' '); raise SystemExit('owned')"
NAMES = [
    "argparse.py", "json.py", "contextlib.py", "platform.py", "numpy/__init__.py", "onnxruntime/__init__.py", "tempfile.py",
    "importlib/util.py",
]  # fmt: skip


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> tuple[Path, Path]:
    """The scripts among stray files of all kinds that Python would import; each that runs writes its name into the second path."""
    folder, ran = tmp_path_factory.mktemp("bundle"), tmp_path_factory.mktemp("ran") / "ran"
    for path in HOME.glob("*.py"):
        shutil.copy(path, folder)
    code = STRAY.format(str(ran))
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    (folder / "stray.pth").write_text(f"import sys; exec({code!r})")
    source = folder.parent / "stray_source.py"
    source.write_text(code)
    (folder / "shutil.pyc").write_bytes(compiled(source))
    for name in (
        "manifest",
        "board",
        "isolate",
        "score",
        "measuring",
    ):  # taken for the script beside it, without a look at that
        (folder / "__pycache__").mkdir(exist_ok=True)
        Path(importlib.util.cache_from_source(str(folder / f"{name}.py"))).write_bytes(compiled(source))
    return folder, ran


def compiled(source: Path) -> bytes:
    kept = source.with_suffix(".kept")
    py_compile.compile(str(source), str(kept), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return kept.read_bytes()


@pytest.mark.parametrize("path", [None, ".", ":", "{folder}"], ids=["none", "relative", "empty entry", "the folder"])
@pytest.mark.parametrize("script", STARTED)
def test_stray_code_does_not_run(scripts, tmp_path, script, path):
    """Whatever PYTHONPATH is. (Where that names the folder, Python itself runs a sitecustomize.py of it, before any script.)"""
    folder, ran = scripts
    args, status, said = STARTED[script]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HOME": str(tmp_path)}
    custom = folder / "sitecustomize.py"
    if path is None:
        custom.write_text((folder / "argparse.py").read_text())
    else:
        custom.unlink(missing_ok=True)
        environment["PYTHONPATH"] = path.format(folder=folder)
    line = [sys.executable, script if path else str(folder / script), *args]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert not ran.exists(), ran.read_text()
    assert said in done.stdout + done.stderr and status in (None, done.returncode), done.stdout + done.stderr


def test_every_script_is_known_and_each_that_can_be_started_isolates_itself_first():
    names: dict[str, object] = {"__file__": str(HOME / "isolate.py")}
    path, finders = list(sys.path), list(sys.meta_path)
    try:
        exec(compile((HOME / "isolate.py").read_bytes(), "isolate.py", "exec"), names)
    finally:
        sys.path[:], sys.meta_path[:] = path, finders
    more = {p.stem for p in detection.Detection.scripts}
    assert names["SCRIPTS"] == {p.stem for p in HOME.glob("*.py")} - {"isolate"} | more
    for path in HOME.glob("*.py"):
        before, isolates, _ = path.read_text().partition("isolate.read()")
        assert bool(isolates) == (path.name in STARTED), path
        assert not isolates or before.count("\nimport ") == 1, f"{path} imports more than sys before it is safe"
