"""A device over ssh: engines are built and measured there by `deploy/on_device/agent.py`; no torch, no edgeprune there.

What is sent lies under `~/.cache/edgeprune/` on the device by its checksum: scripts and models are checked against it
before every job, an upload that broke off goes on where it stopped, and the answer of a job whose connection broke is
fetched again. Host keys are checked by ssh itself; a host that it does not know is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.devices.pairs import Pairs
from edgeprune.errors import DeviceError, EngineError
from edgeprune.files import hash_obj, sha256, write_atomic
from edgeprune.runtime import openvino
from edgeprune.runtime.engine import Layer
from edgeprune.shipped import shipped
from edgeprune.target import Target

ROOT = ".cache/edgeprune"  # of the user's home on the device
SCRIPTS = (
    "agent.py", "engines.py", "trt.py", "cuda_runtime.py", "layers.py", "identity.py", "measuring.py", "score.py", "board.py",
    "tegrastats.py", "lease.py", "doctor.py", "jetpack.py",
)  # fmt: skip
_TRIES, _PAUSE = 4, 2.0
_BROKEN = 255  # ssh's own exit status for a connection that failed
_OPTIONS = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15",
            "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")  # fmt: skip


class SshEngine:
    """An engine on the device; see `runtime.engine.Engine`. It is timed there, by `Ssh.pairs`."""

    def __init__(self, host: Ssh, model: str, precision_asked: str, path: Path, built: dict[str, Any]) -> None:
        self._host, self.model, self.asked, self.path = host, model, precision_asked, path
        self.backend, self.precision = built["backend"], built["precision"]
        self.device = f"{host.target.device} of {host.target.host}"

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, ...) answers, run on the device."""
        return self._host.predict(self, images)

    def bind(self, image: np.ndarray) -> Callable[[], Any]:
        raise EngineError(f"an engine on {self._host.target.host} is timed there, not from here")


class Ssh:
    """A target with `host:`; see `devices.Device`."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._hello: dict[str, Any] | None = None
        self._there: set[str] = set()

    def why_not(self) -> str | None:
        """Why engines cannot be built and measured on the device now; None where they can."""
        try:
            self.hello()
        except (DeviceError, EngineError) as error:
            return str(error)
        return None

    def hello(self) -> dict[str, Any]:
        """The device's fingerprint and backend version; asked once."""
        if self._hello is None:
            self._hello = self._job("hello", seconds=120)
        return self._hello

    def identity(self) -> dict[str, Any]:
        """What makes a table of latencies valid: the device and how it is set, not its state of the moment."""
        told, kept = self.hello()["fingerprint"], ("machine", "board", "l4t", "cpu", "cores", "governor", "power_mode")
        return {k: told.get(k) for k in kept} | {"device": self.target.device, "threads": self.target.threads}

    def fingerprint(self) -> dict[str, Any]:
        """What a measurement must say about the machine, as of now."""
        return self._job("hello", seconds=120)["fingerprint"]

    def version(self) -> str:
        """The backend's name and version."""
        return str(self.hello()["version"])

    def build(self, onnx: Path, home: Path, precision: str, calibration: Iterable[np.ndarray] = ()) -> SshEngine:
        """Send the graph (for OpenVINO its IR, quantised here) and build it there."""
        home.mkdir(parents=True, exist_ok=True)
        files = [onnx]
        if self.target.backend == "openvino":
            xml = openvino.convert(onnx, home, precision, calibration)
            files = [xml, xml.with_suffix(".bin")]
        files += [p for p in (onnx.with_suffix(f".{precision}.onnx"),) if p.exists()]  # with its precision inside
        model = self._send(files)
        built = self._job("build", model=model, precision=precision, seconds=self.target.build_seconds, keep=True)
        return SshEngine(self, model, precision, files[0], built)

    def ahead(self, onnx: Path, home: Path, precision: str) -> None:
        """Nothing is built ahead for a device that is reached over ssh: it builds its engines itself."""

    def layers(self, model: Path, precision: str, runs: int = 8) -> list[Layer]:
        """How long each operator of a graph takes there."""
        files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
        # a probe graph of an INT8 table carries its own Q/DQ; the engine around it is f32
        told = "f32" if precision == "int8" and model.suffix != ".xml" else precision
        found = self._job("layers", model=self._send(files), precision=told, runs=runs, seconds=self.target.run_seconds)
        return [Layer(*row) for row in found["layers"]]

    def pairs(self, a: SshEngine, b: SshEngine, image: np.ndarray, runs: int) -> Pairs:
        """Interleaved milliseconds of two engines on one (1, H, W, 3) image, taken there."""
        found = self._job(
            "pairs", model=a.model, other=b.model, image=self._send_array(image), precision=a.asked, runs=runs,
            other_precision=b.asked, seconds=self.target.run_seconds,
        )  # fmt: skip
        return np.array(found["a"]), np.array(found["b"]), [(int(n), bool(steady)) for n, steady in found["warm"]]

    def doctor(self) -> list[dict[str, str]]:
        """What is missing there, in plain words: [{"level", "what", "todo"}]; only Python is needed for that."""
        return self._job("doctor", seconds=120)["findings"]

    def boundaries(self, engine: SshEngine, image: np.ndarray, fps: float = 30.0) -> dict[str, Any]:
        """The engine alone, with copies, image to mask, and paced at a camera's rate; as `measuring.measure` has it."""
        found = self._job(
            "measure", model=engine.model, image=self._send_array(image), precision=engine.asked, fps=fps,
            seconds=self.target.run_seconds,
        )  # fmt: skip
        return {k: found[k] for k in ("settings", "boundaries", "during")}

    def predict(self, engine: SshEngine, images: np.ndarray) -> np.ndarray:
        """Masks of (B, H, W, 3) images, (B, H, W)."""
        source = self._send_array(images)
        out = f"{ROOT}/answers/{hash_obj([engine.model, source, engine.asked])[:24]}.npy"
        self._job(
            "predict",
            model=engine.model,
            image=source,
            out=out,
            precision=engine.asked,
            seconds=self.target.run_seconds,
        )
        return np.load(io.BytesIO(self._ssh(f"cat {out}", 300)), allow_pickle=False)

    # what follows speaks to the device

    def _job(self, name: str, *, seconds: int, keep: bool = False, **told: Any) -> dict[str, Any]:
        """Run the agent; its answer. With `keep` the same question is answered once and for all.

        Raises:
            EngineError: the agent's own message.
            DeviceError: the device cannot be reached, or does not answer in time.
        """
        t = self.target
        scripts = self._send([shipped("deploy/on_device") / n for n in SCRIPTS])
        folder = scripts.rsplit("/", 1)[0]
        number = hash_obj([name, told, t.backend, t.device, t.threads, folder, 0 if keep else time.time_ns()])[:24]
        answer = f"{ROOT}/answers/{number}.json"
        options = {"backend": t.backend, "device": t.device, "threads": t.threads, "limit": seconds, "answer": answer}
        options |= {"cool": t.cool_below_c or 0} | told
        words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
        checks = {folder, *(str(told[k]).rsplit("/", 1)[0] for k in ("model", "other", "image") if k in told)}
        check = " && ".join(f"(cd {shlex.quote(d)} && sha256sum -c --quiet SHA256SUMS)" for d in sorted(checks))
        command = f"mkdir -p {ROOT}/answers && {check} && {shlex.join([t.python, scripts, name, *words])}"
        return json.loads(self._ssh(command, seconds + 660))

    def _send(self, files: Sequence[Path]) -> str:
        """Put files into a folder named by their checksums; gives the first one's path there."""
        sums = "".join(f"{sha256(f)}  {f.name}\n" for f in files)
        folder = f"{ROOT}/store/{hashlib.sha256(sums.encode()).hexdigest()[:24]}"
        if folder not in self._there:
            done = f"test -f {folder}/SHA256SUMS && (cd {folder} && sha256sum -c --quiet SHA256SUMS 2>/dev/null) && echo yes"
            if self._ssh(f"({done}) || true", 120).strip() != b"yes":
                self._ssh(f"mkdir -p {folder}", 60)
                for file in files:
                    self._upload(file, f"{folder}/{file.name}")
                self._ssh(
                    f"cat > {folder}/SHA256SUMS && cd {folder} && sha256sum -c --quiet SHA256SUMS", 120, sums.encode()
                )
            self._there.add(folder)
        return f"{folder}/{files[0].name}"

    def _send_array(self, array: np.ndarray) -> str:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            held = io.BytesIO()
            np.save(held, np.ascontiguousarray(array), allow_pickle=False)
            path = Path(folder) / "images.npy"
            write_atomic(path, held.getvalue())
            return self._send([path])

    def _upload(self, file: Path, there: str) -> None:
        """Send a file; what an earlier attempt has left there is kept."""
        content, part = file.read_bytes(), shlex.quote(there + ".part")
        for attempt in range(_TRIES):
            size = int(self._ssh(f"stat -c %s {part} 2>/dev/null || echo 0", 60) or 0)
            size = 0 if size > len(content) else size
            keep = f"truncate -s {size} {part} 2>/dev/null || : > {part}"
            try:
                self._once(f"{keep}; cat >> {part} && mv {part} {shlex.quote(there)}", 3600, content[size:])
                return
            except _Broken as error:
                if attempt == _TRIES - 1:
                    raise DeviceError(
                        f"{self.target.host}: the connection broke while sending {file.name}: {error}"
                    ) from error
                time.sleep(_PAUSE * 2**attempt)

    def _ssh(self, command: str, seconds: float, data: bytes = b"") -> bytes:
        """Run a command there; broken connections are tried again."""
        for attempt in range(_TRIES):
            try:
                return self._once(command, seconds, data)
            except _Broken as error:
                if error.final or attempt == _TRIES - 1:
                    raise DeviceError(f"{self.target.host}: {error}") from error
                time.sleep(_PAUSE * 2**attempt)
        raise AssertionError

    def _once(self, command: str, seconds: float, data: bytes = b"") -> bytes:
        assert self.target.host is not None
        line = ["ssh", *_OPTIONS, *self.target.ssh, "--", self.target.host, f"cd && {{ {command}; }}"]
        try:
            done = subprocess.run(line, input=data, capture_output=True, timeout=seconds, check=False)
        except FileNotFoundError as error:
            raise DeviceError("ssh is not installed on this machine") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.target.host}: no answer within {seconds:.0f} s") from error
        if done.returncode == 0:
            return done.stdout
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = next((x for x in reversed(lines) if x.strip()), f"exit status {done.returncode}")
        if done.returncode == _BROKEN:
            known = "Host key verification failed" in done.stderr.decode(errors="replace")
            if known:
                last = (
                    f"its host key is not known or has changed; run `ssh {self.target.host}` once and compare the key"
                )
            raise _Broken(last, final=known or "Permission denied" in last)
        if done.returncode in (142, 14) or "Alarm clock" in last:
            raise DeviceError(
                f"{self.target.host}: the job took longer than it may; build_seconds, run_seconds of the target"
            )
        raise EngineError(f"{self.target.host}: {last.removeprefix('error: ')}")


class _Broken(Exception):
    """The connection failed; `final` where trying again is useless."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final
