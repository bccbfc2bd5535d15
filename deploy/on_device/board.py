"""What this machine is and how it is set: board, L4T, power mode by name, clocks, heat, memory, throttling. stdlib only.

Everything is read from files; nothing is changed. `root` is where the system's files lie: "/" on the board, another
folder in a container that has the host's mounted (EDGEPRUNE_ROOT).
"""

import glob
import os
import platform
import re
import subprocess

ROOT = os.environ.get("EDGEPRUNE_ROOT", "/")
_GPU = re.compile(r"(gpu|gv11b|ga10b|gb10b|gp10b|gm20b|gpc)")  # what devfreq calls the GPU of the boards' generations


def read(path, root=None):
    """A small file's text, or None. A sensor that is switched off answers EAGAIN, of which Python's text reader makes a TypeError."""
    try:
        with open(os.path.join(ROOT if root is None else root, path.lstrip("/")), errors="replace") as handle:
            return handle.read().strip("\0\n ")
    except (OSError, TypeError):
        return None


def found(pattern, root=None):
    """Paths below the root that fit a pattern, without the root."""
    base = ROOT if root is None else root
    return sorted("/" + os.path.relpath(p, base) for p in glob.glob(os.path.join(base, pattern.lstrip("/"))))


def fingerprint(root=None):
    """What a measurement must say about this machine; values that it does not tell are None."""
    names = [
        line.split(":", 1)[1].strip()
        for line in (read("/proc/cpuinfo", root) or "").splitlines()
        if "model name" in line
    ]
    return {
        "machine": platform.machine(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "python": platform.python_version(),
        "board": read("/proc/device-tree/model", root),
        "module": module(root),
        "l4t": l4t(read("/etc/nv_tegra_release", root)),
        "cpu": names[0] if names else platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", root),
        "power_mode": power_mode(root),
        "gpu_clock": gpu_clock(root),
        "driver": driver(root),
        "gpu": gpu(root),
        "load_1min": round(os.getloadavg()[0], 2),
        "hottest_c": hottest(root),
        "memory_mb": memory(root),
    }


def l4t(text):
    """ "36.4.7" from the first line of /etc/nv_tegra_release ("# R36 (release), REVISION: 4.7, GCID: …"); None else."""
    told = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text or "")
    return "%s.%s" % told.groups() if told else None


def module(root=None):
    """The module's part number ("p3767-0005"), from the device tree; it tells 8 GB from 16 GB where the name does not."""
    names = (read("/proc/device-tree/compatible", root) or "").split("\0")
    told = [m.group(0) for m in (re.search(r"p\d{4}-\d{4}", name) for name in names) if m]
    return told[-1] if told else None


def driver(root=None):
    """The version of NVIDIA's kernel driver where it tells one."""
    told = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", read("/proc/driver/nvidia/version", root) or "")
    return told.group(1) if told else None


def gpu(root=None):
    """The names of NVIDIA's GPUs on a desktop or in a data centre, where its driver tells them."""
    told = [read(path, root) or "" for path in found("/proc/driver/nvidia/gpus/*/information", root)]
    names = [m.group(1) for m in (re.search(r"Model:\s*(.+)", text) for text in told) if m]
    return ", ".join(names) or None


# power modes


def power_modes(conf):
    """{id: name} of the text of /etc/nvpmodel.conf. The ids differ between boards and JetPacks; the names say what it is."""
    modes = {}
    for line in (conf or "").splitlines():
        told = re.match(r"\s*<\s*POWER_MODEL\s+(.*?)>", line)
        if told:
            pairs = dict(re.findall(r"(ID|NAME)=(\S+)", told.group(1)))
            if "ID" in pairs and "NAME" in pairs:
                modes[int(pairs["ID"])] = pairs["NAME"]
    return modes


def power_mode(root=None):
    """The power mode's name; None where there are none, "id 3" where no name is known."""
    told = asked_power_mode() if (ROOT if root is None else root) == "/" else None
    if told:
        return told
    status = re.search(r"pmode:(\d+)", read("/var/lib/nvpmodel/status", root) or "")
    if not status:
        return None
    number = int(status.group(1))
    return power_modes(read("/etc/nvpmodel.conf", root)).get(number, "id %d" % number)


def asked_power_mode():
    """What `nvpmodel -q` says; it only asks."""
    try:
        done = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return named_power_mode(done.stdout.decode(errors="replace"))


def named_power_mode(text):
    """The name in the answer of `nvpmodel -q` ("NV Power Mode: MAXN\\n0"); older ones say MODE_15W for 15W."""
    told = re.search(r"NV Power Mode:\s*(\S+)", text)
    return told.group(1) if told else None


# clocks, heat, memory


def gpu_clock(root=None):
    """{"now", "least", "most"} of the GPU in MHz; None where devfreq shows none."""
    for path in found("/sys/class/devfreq/*", root):
        if _GPU.search(os.path.basename(path)):
            rows = [read(path + "/" + name, root) for name in ("cur_freq", "min_freq", "max_freq")]
            if all(r and r.isdigit() for r in rows):
                now, least, most = (int(r) / 1e6 for r in rows)
                return {"now": now, "least": least, "most": most}
    return None


def clocks_locked(root=None):
    """Can the GPU's clock not move? None where it is not known."""
    clock = gpu_clock(root)
    return None if clock is None else clock["least"] == clock["most"]


def hottest(root=None):
    """The highest temperature of the thermal zones in degrees Celsius; None where there are none.

    Zones of parts that are switched off read -256; PMIC's reads 100 whatever it is.
    """
    degrees = []
    for path in found("/sys/class/thermal/thermal_zone*", root):
        text, kind = read(path + "/temp", root), read(path + "/type", root) or ""
        if text and text.lstrip("-").isdigit() and "pmic" not in kind.lower() and int(text) > -40000:
            degrees.append(int(text) / 1000)
    return max(degrees) if degrees else None


def memory(root=None):
    """{"total", "free", "swap"} in MB; free is what programs can still get."""
    rows = dict(re.findall(r"(\w+):\s+(\d+) kB", read("/proc/meminfo", root) or ""))
    keys = (("total", "MemTotal"), ("free", "MemAvailable"), ("swap", "SwapTotal"))
    return {name: int(rows[key]) // 1024 if key in rows else None for name, key in keys}


def throttling(root=None):
    """Counts of events that slow the board down: {"oc1": 0, …} over-current and under-voltage; empty where not told."""
    counts = {}
    for path in found("/sys/class/hwmon/hwmon*/oc*_event_cnt", root):
        text = read(path, root)
        if text and text.isdigit():
            counts[os.path.basename(path).split("_")[0]] = int(text)
    return counts
