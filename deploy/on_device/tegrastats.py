"""Reading `tegrastats`: its line, and a sampler that runs it beside a measurement. stdlib only."""

import re
import shutil
import subprocess
import threading

_PAIR = re.compile(r"\b([A-Za-z][\w]*)@(-?[\d.]+)C\b")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")


def parse(line):
    """One line as {"ram_mb", "ram_total_mb", "cpu_percent", "gpu_percent", "gpu_mhz", "emc_percent", "emc_mhz",
    "degrees": {zone: C}, "milliwatts": {rail: now}}; what a board does not tell is None or left out.

    The forms differ: GR3D_FREQ 0%, 0%@306, 0%@[306] and, with two GPCs, 0%@[305,305]; rails with and without mW.
    Zones that are off read -256, and PMIC always 100: both are left out.
    """
    ram = re.search(r"\bRAM (\d+)/(\d+)MB", line)
    gpu = re.search(r"\bGR3D_FREQ (\d+)%(?:@\[?([\d,]+)\]?)?", line)
    emc = re.search(r"\bEMC_FREQ (\d+)%(?:@(\d+))?", line)
    cpu = re.search(r"\bCPU \[([^\]]*)\]", line)
    loads = re.findall(r"(\d+)%", cpu.group(1)) if cpu else []
    degrees = {z: float(c) for z, c in _PAIR.findall(line) if z.upper() != "PMIC" and float(c) > -40}
    return {
        "ram_mb": int(ram.group(1)) if ram else None,
        "ram_total_mb": int(ram.group(2)) if ram else None,
        "cpu_percent": sum(map(int, loads)) / len(loads) if loads else None,
        "gpu_percent": int(gpu.group(1)) if gpu else None,
        "gpu_mhz": max(map(int, gpu.group(2).split(","))) if gpu and gpu.group(2) else None,
        "emc_percent": int(emc.group(1)) if emc else None,
        "emc_mhz": int(emc.group(2)) if emc and emc.group(2) else None,
        "degrees": degrees,
        "milliwatts": {rail: int(now) for rail, now, _ in _RAIL.findall(line) if rail not in ("RAM", "SWAP", "IRAM")},
    }


class Sampler:
    """`with Sampler() as seen:` runs tegrastats beside the body; `seen.rows` are its parsed lines, none where it is missing."""

    def __init__(self, interval_ms=200, program="tegrastats"):
        self.rows, self.process, self.thread = [], None, None
        self.command = [shutil.which(program), "--interval", str(interval_ms)]

    def __enter__(self):
        if self.command[0]:
            try:
                self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            except OSError:
                return self
            self.thread = threading.Thread(target=self._read, daemon=True)
            self.thread.start()
        return self

    def _read(self):
        for line in self.process.stdout:
            self.rows.append(parse(line.decode(errors="replace")))

    def __exit__(self, *error):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.thread.join(timeout=5)
            self.process.stdout.close()


def summary(rows):
    """{"samples", "gpu_mhz": [least, most], "hottest_c", "milliwatts": {rail: mean}} of parsed lines; None of none."""
    if not rows:
        return None
    mhz = [r["gpu_mhz"] for r in rows if r["gpu_mhz"]]
    heat = [c for r in rows for c in r["degrees"].values()]
    rails = sorted({rail for r in rows for rail in r["milliwatts"]})
    return {
        "samples": len(rows),
        "gpu_mhz": [min(mhz), max(mhz)] if mhz else None,
        "hottest_c": max(heat) if heat else None,
        "milliwatts": {
            rail: round(sum(r["milliwatts"].get(rail, 0) for r in rows) / sum(rail in r["milliwatts"] for r in rows))
            for rail in rails
        },
    }
