"""The commands about boards: doctor (what is missing), verify (a result brought back), run-engine, sign."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape

from edgeprune import interrupt, progress
from edgeprune.documents import M, first_fault
from edgeprune.errors import DeviceError, EngineError, UsageError
from edgeprune.files import read_json
from edgeprune.options import HostOpt
from edgeprune.shipped import shipped
from edgeprune.target import Target, load_target

SignersOpt = Annotated[
    Path | None, typer.Option(help="file of allowed signers; a bundle that none of them signed is refused")
]
_MARKS = {"ok": "[green]ok     [/green]", "note": "[yellow]note   [/yellow]", "missing": "[bold red]missing[/bold red]"}


def doctor(
    target: Annotated[
        str, typer.Option("--target", "-t", help="a shipped target's name, or the path of a .yaml file")
    ] = "cpu",
    host: HostOpt = None,
) -> None:
    """Say in plain words what is missing before engines for a target can be built and measured.

    Over ssh where the target has a host, else on this machine. Ends with status 0 where nothing is missing, 1 where something
    is, 4 where the device cannot be reached.

    edgeprune doctor --target jetson --host user@board
    edgeprune doctor --target cpu
    """
    told = load_target(target, host)
    console = progress.console(stderr=False)
    rows, here = _findings(told)
    console.print(
        f"{escape(told.title)}, {f'on {told.host}' if told.host else 'as seen from this machine'}", highlight=False
    )
    for row in rows:
        console.print(f"{_MARKS[row['level']]}  {escape(row['what'])}", soft_wrap=True, highlight=False)
        if row["todo"]:
            console.print(f"         → {row['todo']}", soft_wrap=True, highlight=False, markup=False)
    if not here:
        for line in _elsewhere(told):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(DeviceError.exit_status)
    raise typer.Exit(1 if any(row["level"] == "missing" for row in rows) else 0)


def _findings(target: Target) -> tuple[list[dict[str, str]], bool]:
    """(findings, was it the device itself that was asked?)."""
    if target.host:
        from edgeprune.devices import Agent, Ssh

        return Agent(target, Ssh(target)).doctor(), True
    if target.backend == "inductor":  # runs in this very Python
        from edgeprune.runtime import BACKENDS

        missing = BACKENDS["inductor"].why_not(target.device)
        found = (
            {"level": "missing", "what": missing, "todo": ""}
            if missing
            else {"level": "ok", "what": "inductor", "todo": ""}
        )
        return [found], True
    board = Path("/etc/nv_tegra_release").exists()
    if target.backend == "tensorrt" and not board and _is_jetson(target):
        return [{"level": "note", "what": "this machine is no Jetson, and the target has no host", "todo": ""}], False
    command = [sys.executable, "-B", str(shipped("deploy/on_device") / "doctor.py"), "--json"]
    command += ["--backend", target.backend, "--device", target.device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["findings"], True
    except (ValueError, TypeError, KeyError) as error:
        lines = done.stderr.strip().splitlines() or ["no answer"]
        raise EngineError(f"doctor: {lines[-1]}") from error


def _is_jetson(target: Target) -> bool:
    return "jetson" in target.name.lower() or "jetson" in target.title.lower()


def _elsewhere(target: Target) -> list[str]:
    """What can be said of a board that is not here."""
    from edgeprune.deploy.scripts import script

    rows = [r for r in script("jetpack").RELEASES if any(name in target.title for name in r.boards)]
    rows = rows or script("jetpack").RELEASES
    lines = ["", "What JetPacks bring (look at /etc/nv_tegra_release on the board):"]
    for r in rows:
        ways = " or ".join({"flags": "builder flags", "typed": "types of the graph"}[w] for w in r.precision)
        lines.append(
            f"  {r.jetpack}  L4T {', '.join(r.l4t)}  {'/'.join(r.boards)}: TensorRT {r.tensorrt or 'unknown'}, Python {r.python}; "
            f"precision by {ways}"
        )
    return [
        *lines, "", "To ask the board itself:",
        f"  edgeprune doctor --target {target.name} --host user@board",
        "or, without ssh, in an unpacked bundle on the board: python3 doctor.py",
    ]  # fmt: skip


def verify(
    result: Annotated[Path, typer.Option("--result", help="the result.zip that a bundle's run.sh wrote on the device")],
    runs_dir: Annotated[Path, typer.Option(help="where the runs' folders lie")] = Path("runs"),
) -> None:
    """Make the report of a bundle that ran on a device which is not connected: the same one that --host gives.

    The result is kept in the run's folder, so later runs of the same recipe go on from it. Status as of run: 0 all gates met,
    3 a gate failed.

    edgeprune verify --result result.zip
    """
    recipe, target = _names(result)
    folder = runs_dir / f"{recipe}@{target}"
    if not (folder / "recipe.json").is_file():
        raise UsageError(
            f"verify: {folder} is not there; the result belongs to that run (--runs-dir says where runs lie)"
        )
    from edgeprune import pipeline  # torch takes seconds to import
    from edgeprune.recipe import Recipe, check_files

    interrupt.raise_again()
    content = _read(Recipe, folder / "recipe.json")
    told = _read(Target, folder / "target.json").model_copy(update={"host": None})
    if (content.name, told.name) != (recipe, target):
        raise EngineError(f"{folder}: its recipe.json or target.json is another run's; make the run again")
    check_files(content, tuned=False)
    raise typer.Exit(pipeline.run(content, told, runs_dir, as_it_stands=True, result=result))


def _read(schema: type[M], path: Path) -> M:
    """What a run has kept of its recipe or target."""
    try:
        return schema.model_validate(read_json(path))
    except ValidationError as error:
        raise EngineError(f"{path}: {first_fault(error)}; make the run again") from error


def _names(result: Path) -> tuple[str, str]:
    """Recipe and target that a result.zip says it is of."""
    if not result.is_file():
        raise UsageError(f"verify: {result}: no such file; copy result.zip from the device")
    from edgeprune.devices import replay

    told, _ = replay.read(result)
    return told["recipe"], told["target"]


def run_engine(
    bundle: Annotated[Path, typer.Argument(help="a bundle's folder")],
    source: Annotated[str, typer.Option(help="a folder of images, an image, a video file, or a camera (/dev/video0)")],
    out: Annotated[Path | None, typer.Option(help="folder for the masks")] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="write image and mask blended instead of the mask")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="show them in a window (wants OpenCV)")] = False,
    most: Annotated[int | None, typer.Option(min=1, help="end after so many images")] = None,
    backend: Annotated[
        str | None, typer.Option(help="openvino, onnxruntime, tensorrt …; default: the bundle's")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="f32, f16, int8; default: the bundle's")] = None,
    device: Annotated[str | None, typer.Option(help="the backend's name of the device; default: the bundle's")] = None,
    signers: SignersOpt = None,
) -> None:
    """Run a bundle of segmentation over images, a video or a camera; write or show the masks, and say how many a second.

    A bundle with a changed byte is refused before anything of it runs. The same without edgeprune: python3 play.py in the bundle.

    edgeprune run-engine runs/quickstart@jetson/bundle --source images/ --out masks/ --backend onnxruntime --precision f32
    """
    from edgeprune.deploy import signing

    signing.check(bundle, signers)
    asked = {
        "--source": source,
        "--out": out,
        "--most": most,
        "--backend": backend,
        "--precision": precision,
        "--device": device,
        "--signers": signers and signers.resolve(),
    }
    command = [sys.executable, "-B", str(bundle / "play.py")]
    command += [word for name, value in asked.items() if value is not None for word in (name, str(value))]
    command += [name for name, wanted in (("--overlay", overlay), ("--show", show)) if wanted]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def sign(
    bundle: Annotated[Path, typer.Argument(help="a bundle's folder")],
    key: Annotated[Path, typer.Option(help="an ssh key, such as ~/.ssh/id_ed25519")],
) -> None:
    """Sign a bundle with an ssh key; the device then refuses any other with run.sh --signers FILE.

    FILE holds lines such as: you@example.com ssh-ed25519 AAAA…

    edgeprune sign runs/quickstart@jetson/bundle --key ~/.ssh/id_ed25519
    """
    from edgeprune.deploy import signing

    archive = signing.sign(bundle, key.expanduser())
    progress.console().print(f"signed: {escape(str(archive))}", soft_wrap=True, highlight=False)


def add_to(app: typer.Typer) -> None:
    """Make them commands of the program."""
    for name, command in (("doctor", doctor), ("verify", verify), ("run-engine", run_engine), ("sign", sign)):
        app.command(name)(command)
