"""Timing engines: four boundaries, interleaved pairs, a paced run, and what the board did meanwhile. numpy only.

Boundaries: "engine" (inputs and outputs in place, the device's own clock where it has one), "with copies" (host memory to
host memory, page-locked), "image to mask" (or to logits, to raw heads: an array of the program's to another one), "paced" (the same, one image each
1/FPS of a second as a camera gives them: a device that idles in between clocks down). Everything that other tools leave to
defaults, which differ between their versions, is written into the record.
"""

import os
import time

import board
import numpy as np
import score
import tegrastats

SETTINGS = {
    "batch": 1, "streams": 1, "cuda_graph": False, "spin_wait": False, "enqueue_ahead": 0, "idle_ms": 0, "warmup_ms": 200,
    "warmup_windows": 6, "warmup_spread": 0.05, "warmup_most": 60, "seconds": 3.0, "least": 10, "most": 2000,
    "percentiles": [50, 90, 95, 99], "input": "a real image",
}  # fmt: skip
WAITED = 0.02  # of a call's time that its threads may have waited for a processor
PATIENCE = 4  # pairs taken for each that is wanted, at most
DISTURBED = 1.2  # of an operator's least time: its lower quartile lies under it on a machine that is left alone
UNSTEADY = 0.025  # coefficient of variation above which a series is called unsteady, as trtexec does


def once(call):
    """Milliseconds of one call: what the call itself returns (the device's clock), else the host's."""
    started = time.perf_counter()
    told = call()
    return told if isinstance(told, float) else (time.perf_counter() - started) * 1000


def warm_up(call, most=60, window=6, spread=0.05):
    """Call until two windows' medians agree; (calls made, steady?)."""
    times = [once(call) for _ in range(2 * window)]
    while len(times) < most:
        before, after = np.median(times[-2 * window : -window]), np.median(times[-window:])
        if abs(before - after) <= spread * after:
            return len(times), True
        times.append(once(call))
    return len(times), False


def waited():
    """Milliseconds that this process's threads have waited for a processor so far; 0 where the system does not tell."""
    total = 0
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return 0.0
    for thread in threads:
        try:
            with open("/proc/self/task/%s/schedstat" % thread) as told:
                total += int(told.read().split()[1])
        except (OSError, IndexError, ValueError):  # a thread that has just ended
            continue
    return total / 1e6


def pairs(a, b, runs):
    """(times of a, times of b, warm-ups, (left out, busy)): interleaved; the first of a pair changes every time.

    Pairs in which other programs held the processor are left out and more are taken, up to four times as many; where the
    machine is never quiet for so long, those that waited least are kept, and counted as `busy`.
    """
    warm = [warm_up(call) for call in (a, b)]
    rows, quiet = [], 0
    while quiet < runs and len(rows) < PATIENCE * runs:
        row, share = [0.0, 0.0], 0.0
        for which in ((0, 1), (1, 0))[len(rows) % 2]:
            before = waited()
            row[which] = once((a, b)[which])
            share = max(share, (waited() - before) / max(row[which], 1e-9))
        rows.append((share, row))
        quiet += share <= WAITED
    kept = sorted(range(len(rows)), key=lambda n: (rows[n][0] > WAITED and rows[n][0], n))[:runs]
    counts = len(rows) - len(kept), sum(rows[n][0] > WAITED for n in kept)
    return [rows[n][1][0] for n in sorted(kept)], [rows[n][1][1] for n in sorted(kept)], warm, counts


def watched_pairs(a, b, runs):
    """(`pairs` of a and b, what the board did meanwhile)."""
    before = state()
    with tegrastats.Sampler() as seen:
        found = pairs(a, b, runs)
    return found, verdict(before, state(), tegrastats.summary(seen.rows))


def series(call, settings):
    """(times, (warm-up calls, steady?)): for so many seconds and at least so many times."""
    until = time.perf_counter() + settings["warmup_ms"] / 1000
    before = 0
    while time.perf_counter() < until:
        call()
        before += 1
    made, steady = warm_up(call, settings["warmup_most"], settings["warmup_windows"], settings["warmup_spread"])
    times, until = [], time.perf_counter() + settings["seconds"]
    while len(times) < settings["least"] or (time.perf_counter() < until and len(times) < settings["most"]):
        times.append(once(call))
    return times, (before + made, steady)


def paced(call, fps, seconds):
    """(times, late): one call each 1/fps s; `late` counts those that ended after the next image had come."""
    times, late, period = [], 0, 1.0 / fps
    start = time.perf_counter()
    for tick in range(max(2, int(seconds * fps))):
        due = start + tick * period
        time.sleep(max(0.0, due - time.perf_counter()))
        times.append(once(call))
        late += time.perf_counter() > due + period
    return times, late


def measure(engine, image, fps=30.0, settings=None):
    """{"settings", "boundaries": {name: record}, "during": what the board did} of an engine on one (1, H, W, 3) image."""
    settings = dict(SETTINGS, **(settings or {}))
    calls, records = engine.boundaries(image), {}
    before = state()
    with tegrastats.Sampler() as seen:
        for name, call in calls.items():
            times, warm = series(call, settings)
            records[name] = record(name, times, warm)
        whole = next(call for name, call in calls.items() if name.startswith("image to "))
        times, late = paced(whole, fps, settings["seconds"])
    records["paced"] = dict(record("paced", times, (0, True)), fps=fps, late=late)
    if "with copies" in records and records["with copies"]["p50"] > 2 * records["engine"]["p50"]:
        records["with copies"]["warnings"].append("copies take longer than the engine")
    during = verdict(before, state(), tegrastats.summary(seen.rows))
    return {"settings": settings, "boundaries": records, "during": during}


def record(boundary, times, warm):
    """A series as the measurement record: see `score.spread`; with the boundary, the warm-up and what is odd about it."""
    told = dict(score.spread(times), boundary=boundary, warmup=warm[0], steady=warm[1], warnings=[])
    if told["cv"] > UNSTEADY:
        told["warnings"].append("unsteady: coefficient of variation %.1f %%" % (100 * told["cv"]))
    if not warm[1]:
        told["warnings"].append("not steady after %d calls of warm-up" % warm[0])
    return told


def by_layer(run, runs, warm=2):
    """[(layer, milliseconds)] over at least `runs` runs: the lower quartile of each, or the least where even that was disturbed.

    Args:
        run: runs the engine once; gives [(layer, milliseconds)] in the order that they ran.
    """
    times, rows, began = [], [], time.perf_counter()
    while len(times) < runs or (time.perf_counter() - began < 0.35 and len(times) < 400):
        rows = run()
        if warm > 0 or time.perf_counter() - began < 0.1:
            warm -= 1
            continue
        times.append([ms for _, ms in rows])
    least, quarter = np.min(times, axis=0), np.percentile(times, 25, axis=0)
    found = np.where(quarter <= DISTURBED * least, quarter, least)
    return [(layer, float(ms)) for (layer, _), ms in zip(rows, found)]


def noise(rng, shape, kind):
    """An input for timing: bytes over their whole range, floats around zero."""
    whole = np.issubdtype(kind, np.integer)
    return (rng.randint(0, 256, shape) if whole else rng.randn(*shape)).astype(kind)


def state():
    """What may change while measuring."""
    return {
        "power_mode": board.power_mode(), "gpu_clock": board.gpu_clock(), "hottest_c": board.hottest(),
        "throttling": board.throttling(), "locked": board.clocks_locked(),
    }  # fmt: skip


def verdict(before, after, samples):
    """{"before", "after", "samples", "throttled": [reasons]}; a run with reasons says nothing about the engine alone."""
    reasons = []
    for name, count in after["throttling"].items():
        risen = count - before["throttling"].get(name, 0)
        if risen > 0:
            reasons.append("%s: %d over-current or under-voltage events" % (name, risen))
    if before["power_mode"] != after["power_mode"]:
        reasons.append("the power mode changed from %s to %s" % (before["power_mode"], after["power_mode"]))
    locked = before["gpu_clock"] if before["locked"] else None
    least = samples["gpu_mhz"][0] if samples and samples["gpu_mhz"] else None
    if locked and least and least < 0.97 * locked["now"]:
        reasons.append("the GPU's clock was locked at %.0f MHz and fell to %d" % (locked["now"], least))
    return {"before": before, "after": after, "samples": samples, "throttled": reasons}
