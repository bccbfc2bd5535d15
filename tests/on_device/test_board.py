"""Reading the board: files and tools as real boards write them, in a tree of our own; clocks that are always given back."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import board
import clocks
import doctor
import jetpack
import measuring
import pytest
import tegrastats

from edgeprune.shipped import shipped

# first lines of /etc/nv_tegra_release as published from real boards
RELEASES = {
    "36.4.7": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, DATE: Thu Sep 18 22:54:44 UTC 2025",
    "38.2.2": "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, DATE: Thu Sep 25 22:47:11 UTC 2025",
    "35.1.0": "# R35 (release), REVISION: 1.0, GCID: 31346300, BOARD: t186ref, EABI: aarch64, DATE: Thu Aug 25 18:41:45 UTC 2022",
    "35.4.1": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023",
}
ORIN_NANO_MODES = "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n# < POWER_MODEL ID=9 NAME=NOT >\n< POWER_MODEL NAME=7W ID=3 >\n"
LINES = {
    "orin nx": "RAM 3456/15388MB (lfb 20x4MB) SWAP 0/7694MB (cached 0MB) CPU [12%@1420,8%@1420,off,off,5%@1420,3%@1420,2%@1420,1%@1420] EMC_FREQ 24%@2133 GR3D_FREQ 0%@[306] cpu@52.5C soc2@50C soc0@50C gpu@51C tj@53.5C soc1@50C VDD_IN 5000mW/5000mW",
    "xavier nx": "RAM 2387/7774MB (lfb 961x4MB) SWAP 0/3887MB (cached 0MB) CPU [14%@1190,9%@1190,2%@1190,4%@1190,0%@1190,1%@1344] EMC_FREQ 1%@1600 GR3D_FREQ 0%@114 VIC_FREQ 0%@115 APE 150 MTS fg 0% bg 3% AO@31C GPU@31.5C PMIC@100C AUX@31.5C CPU@33C thermal@31.95C VDD_IN 3528/3569 VDD_CPU_GPU_CV 410/426 VDD_SOC 1107/1115",
    "without root": "RAM 2130/7774MB (lfb 1004x4MB) SWAP 0/3887MB (cached 0MB) CPU [11%@1190,2%@1190,1%@1190,1%@1190,1%@1190,2%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@31C GPU@31.5C PMIC@100C AUX@31.5C CPU@33C thermal@31.95C",
    "agx orin": "11-21-2026 10:00:00 RAM 5000/62840MB (lfb 4x4MB) CPU [1%@2201] GR3D_FREQ 99%@[1300,1298] NVENC off cv0@-256C gpu@71.2C VDD_GPU_SOC 9000mW/8000mW",
}  # fmt: skip


@pytest.fixture
def nano(tmp_path):
    """An Orin Nano Super with JetPack 6.2.1 in 15W, its clocks free, as files."""
    files = {
        "etc/nv_tegra_release": RELEASES["36.4.7"] + "\n# KERNEL_VARIANT: oot\n", "etc/nvpmodel.conf": ORIN_NANO_MODES,
        "var/lib/nvpmodel/status": "pmode:0000", "proc/meminfo": "MemTotal: 7802880 kB\nMemAvailable: 4910080 kB\nSwapTotal: 0 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000", "sys/class/devfreq/17000000.gpu/min_freq": "306000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000", "sys/class/devfreq/15340000.vic/cur_freq": "1",
        "sys/class/thermal/thermal_zone0/temp": "52500", "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": "-256000", "sys/class/thermal/thermal_zone2/temp": "100000",
        "sys/class/thermal/thermal_zone2/type": "PMIC-Die", "sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "37",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("version", RELEASES)
def test_l4t_of_real_release_files(version):
    assert board.l4t(RELEASES[version]) == version
    assert (
        jetpack.release_of(version).jetpack
        == {"36.4.7": "6.2", "38.2.2": "7.0", "35.1.0": "5.0", "35.4.1": "5.1"}[version]
    )


def test_every_release_has_a_source_and_unknown_ones_are_not_guessed():
    assert all(r.source and set(r.precision) <= {"flags", "typed"} for r in jetpack.RELEASES)
    assert (
        jetpack.release_of("36.4.0").jetpack == "6.1"
        and jetpack.release_of("99.1") is None
        and jetpack.release_of(None) is None
    )
    assert "stay on 10.x" in jetpack.faults("11.4.0.106", "36.4.7")[0] and jetpack.faults("10.3.0", "36.4.7") == []
    assert any("Thor" in line for line in jetpack.faults("10.13.3.9", "38.2.2"))


def test_the_power_mode_is_known_by_name(nano):
    assert board.power_mode(nano) == "15W"  # id 0, which is MAXN on other boards
    assert board.power_modes(ORIN_NANO_MODES) == {0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}
    (nano / "var/lib/nvpmodel/status").write_text("pmode:0007 fmode:quiet")
    assert board.power_mode(nano) == "id 7"
    assert board.named_power_mode("NV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert board.named_power_mode("NVPM WARN: fan mode is not set!\n") is None
    assert board.power_mode(nano / "nowhere") is None


def test_the_boards_state(nano):
    told = board.fingerprint(nano)
    assert told["module"] == "p3767-0005" and told["l4t"] == "36.4.7" and "Orin Nano" in told["board"]
    assert told["gpu_clock"] == {"now": 306.0, "least": 306.0, "most": 1020.0} and board.clocks_locked(nano) is False
    assert told["hottest_c"] == 52.5 and told["memory_mb"] == {"total": 7620, "free": 4795, "swap": 0}
    assert board.throttling(nano) == {"oc1": 0, "oc3": 37}
    bare = board.fingerprint(nano / "nowhere")
    assert bare["gpu_clock"] is None and bare["hottest_c"] is None and bare["l4t"] is None


def test_a_thermal_zone_that_is_off_is_no_fault(nano, monkeypatch):
    """Of an Orin Nano the zones of parts that it has not answer EAGAIN, as an empty pipe does that is not waited for."""
    off = nano / "sys/class/thermal/thermal_zone3/temp"
    off.parent.mkdir()
    os.mkfifo(off)
    held = os.open(off, os.O_RDWR)  # or the pipe would be at its end
    once = functools.partial(open, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))
    monkeypatch.setattr(board, "open", once, raising=False)
    try:
        assert board.read("/sys/class/thermal/thermal_zone3/temp", nano) is None and board.hottest(nano) == 52.5
    finally:
        os.close(held)


def test_tegrastats_of_real_boards():
    found = {name: tegrastats.parse(line) for name, line in LINES.items()}
    nx = found["orin nx"]
    assert (nx["ram_mb"], nx["ram_total_mb"], nx["gpu_mhz"], nx["emc_mhz"]) == (3456, 15388, 306, 2133)
    assert (
        nx["cpu_percent"] == pytest.approx(31 / 6)
        and nx["degrees"]["tj"] == 53.5
        and nx["milliwatts"] == {"VDD_IN": 5000}
    )
    xavier = found["xavier nx"]
    assert (
        xavier["gpu_mhz"] == 114 and "PMIC" not in xavier["degrees"] and xavier["milliwatts"]["VDD_CPU_GPU_CV"] == 410
    )
    assert found["without root"]["gpu_mhz"] is None and found["without root"]["milliwatts"] == {}
    agx = found["agx orin"]
    assert agx["gpu_mhz"] == 1300 and agx["gpu_percent"] == 99 and agx["degrees"] == {"gpu": 71.2}
    whole = tegrastats.summary([nx, xavier])
    assert whole["gpu_mhz"] == [114, 306] and whole["hottest_c"] == 53.5 and whole["milliwatts"]["VDD_IN"] == 4264
    assert tegrastats.summary([]) is None and tegrastats.parse("rubbish")["ram_mb"] is None


def tool(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text("#!/bin/sh\n" + text)
    (folder / name).chmod(0o755)


def test_the_sampler_runs_beside_the_measurement_and_ends_with_it(tmp_path, monkeypatch):
    tool(tmp_path, "tegrastats", f"while true; do echo '{LINES['orin nx']}'; sleep 0.02; done\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with tegrastats.Sampler(20) as seen:
        time.sleep(0.3)
    assert len(seen.rows) >= 3 and seen.process.poll() is not None
    monkeypatch.setenv("PATH", "/nowhere")
    with tegrastats.Sampler() as seen:
        pass
    assert seen.rows == []


def test_throttling_makes_a_run_worthless():
    calm = {"power_mode": "25W", "gpu_clock": {"now": 918.0}, "hottest_c": 50, "throttling": {"oc1": 0}, "locked": True}
    assert measuring.verdict(calm, calm, {"gpu_mhz": [918, 918]})["throttled"] == []
    reasons = measuring.verdict(calm, {**calm, "throttling": {"oc1": 3}, "power_mode": "15W"}, {"gpu_mhz": [612, 918]})[
        "throttled"
    ]
    assert (
        len(reasons) == 3
        and "3 over-current" in reasons[0]
        and "from 25W to 15W" in reasons[1]
        and "fell to 612" in reasons[2]
    )


def test_the_board_is_watched_while_pairs_are_taken(tmp_path, monkeypatch):
    """A clock that was locked and fell is seen by tegrastats alone."""
    line = LINES["orin nx"].replace("@[306]", "@[204]")
    tool(tmp_path, "tegrastats", f"while true; do echo '{line}'; sleep 0.02; done\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(board, "gpu_clock", lambda root=None: {"now": 306.0, "least": 306.0, "most": 306.0})
    found, during = measuring.watched_pairs(lambda: time.sleep(0.01), lambda: 1.0, 8)
    assert len(found) == 4 and len(found[0]) == len(found[1]) == 8
    assert during["samples"]["gpu_mhz"] == [204, 204] and "fell to 204" in during["throttled"][0]


def test_series_and_pace_are_recorded_with_their_settings():
    calls = {"engine": lambda: 1.5, "image to mask": lambda: time.sleep(0.002)}

    class Engine:
        def boundaries(self, image):
            return calls

    told = measuring.measure(Engine(), None, fps=100, settings={"seconds": 0.1, "warmup_ms": 1})
    assert told["boundaries"]["engine"]["p50"] == 1.5  # the device's own clock
    assert told["boundaries"]["image to mask"]["p50"] >= 2
    paced = told["boundaries"]["paced"]
    assert paced["count"] == 10 and paced["fps"] == 100 and 0 <= paced["late"] <= 10
    assert told["settings"]["cuda_graph"] is False and told["settings"]["seconds"] == 0.1
    late = measuring.paced(lambda: time.sleep(0.03), 100, 0.1)[1]
    assert late >= 9


@pytest.fixture
def jetson_clocks(tmp_path, monkeypatch):
    """A jetson_clocks that keeps a diary."""
    tool(tmp_path, "jetson_clocks", f'echo "$@" >> {tmp_path}/diary; test "$1" = --store && touch "$2"; exit 0\n')
    tool(tmp_path, "sudo", 'test "$1" = -n && shift; exec "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(clocks, "STORE", str(tmp_path / "stored"))
    monkeypatch.setenv("EDGEPRUNE_CLOCKS", str(tmp_path / "stored"))
    return lambda: [line.split(" ")[0] for line in (tmp_path / "diary").read_text().splitlines()]


def test_clocks_are_locked_only_when_asked_and_given_back_after_errors(jetson_clocks, tmp_path):
    with clocks.locked(False):
        pass
    assert not (tmp_path / "diary").exists()
    with pytest.raises(KeyboardInterrupt), clocks.locked(True):
        raise KeyboardInterrupt
    assert jetson_clocks() == ["--store", "", "--restore"] and not (tmp_path / "stored").exists()


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGTERM, ["--store", "", "--restore"]), (signal.SIGKILL, ["--store", ""])]
)
def test_clocks_after_a_kill(jetson_clocks, tmp_path, number, left):
    code = "import clocks, time\nwith clocks.locked(True):\n    print('locked', flush=True); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=shipped("deploy/on_device"), stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(number)
    process.wait(timeout=20)
    assert jetson_clocks() == left
    if number == signal.SIGKILL:  # nothing can run then: the next one gives them back first
        with clocks.locked(True):
            assert jetson_clocks() == ["--store", "", "--restore", "--store", ""]
        assert not (tmp_path / "stored").exists()


def test_clocks_without_the_tool_or_the_right(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(clocks, "STORE", str(tmp_path / "stored"))
    with pytest.raises(RuntimeError, match="jetson_clocks is not here"), clocks.locked(True):
        pass
    tool(tmp_path, "jetson_clocks", "echo 'Error: run with root'; exit 1\n")
    tool(tmp_path, "sudo", "echo 'sudo: a password is required' >&2; exit 1\n")
    with pytest.raises(RuntimeError, match="root is needed"), clocks.locked(True):
        pass


def test_the_doctor_says_in_plain_words_what_is_missing(nano, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (nano / "usr/lib/aarch64-linux-gnu").mkdir(parents=True)
    (nano / "usr/lib/aarch64-linux-gnu/libnvinfer.so.10").touch()
    told = doctor.findings("tensorrt", "GPU", nano)
    text = {row["what"]: row["todo"] for row in told}
    assert text["numpy is not installed"] == "sudo apt install python3-numpy"
    assert any("JetPack 6.2: CUDA 12.6, TensorRT 10.3" in what for what in text)
    assert any("power mode 15W; this board has 15W (id 0), 25W (id 1), MAXN_SUPER (id 2)" in what for what in text)
    assert any("the board runs in 15W, not at its most" in what for what in text)
    assert any("clock moves between 306 and 1020 MHz" in what for what in text)
    assert any("supply has been too weak" in what and "oc3 37" in what for what in text)
    assert any("virtual environment" in what or "its Python module is not" in what for what in text)
    assert all(row["level"] in ("ok", "note", "missing") and "\n" not in row["what"] for row in told)
    (nano / "etc/nv_tegra_release").unlink()
    assert any("this is no Jetson" in row["what"] for row in doctor.findings("tensorrt", "GPU", nano))
