"""The wheel, in an empty environment away from the checkout."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_pollutes_no_namespace(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"edgeprune"}
    shipped = [n for n in names if n.startswith("edgeprune/_shipped/")]
    for folder in ("recipes", "deploy/targets"):
        inside = {n.rsplit("/", 1)[1] for n in shipped if n.startswith(f"edgeprune/_shipped/{folder}/")}
        assert inside == {p.name for p in (REPOSITORY / folder).glob("*.yaml")} != set()
    assert "edgeprune/_shipped/deploy/on_device/check.py" in names and "edgeprune/deploy/templates/report.html" in names
    assert not any("__pycache__" in n or n.startswith(("tests", "recipes", "deploy/")) for n in names)


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(inside.stdout.strip())
    zipfile.ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # what is installed here; edgeprune is not found through it
    done = subprocess.run(
        [python, "-m", "edgeprune", "check", "quickstart"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and "method: group_norm" in done.stdout, done.stderr
    where = subprocess.run(
        [python, "-c", "import edgeprune.shipped as s; print(s.shipped('recipes'))"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert where.stdout.strip() == str(site / "edgeprune" / "_shipped" / "recipes")


def test_the_reference_of_keys_is_up_to_date():
    script = REPOSITORY / "docs" / "make_reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
