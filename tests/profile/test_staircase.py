"""Steps, ladders, and what lies between measurements."""

import math

import numpy as np
import pytest

from edgeprune.profile.staircase import Surface, find_step, ladder

WINDOW = range(64, 129, 4)


@pytest.mark.parametrize("step", [8, 16, 32, 64])
def test_a_step_is_found_in_spite_of_noise(step):
    rng = np.random.default_rng(step)
    curve = {c: math.ceil(c / step) * (1 + 0.02 * rng.random()) for c in WINDOW}
    curve[76] *= 1.6  # one disturbed measurement decides nothing
    assert find_step(curve) == step


def test_a_busy_core_of_steps_of_8_is_not_taken_for_one_of_16():
    """Measured: 3x3, 64 inputs, f32, AVX2, beside a process that began to work meanwhile."""
    outs = [
        7.79,
        9.07,
        8.73,
        9.79,
        9.55,
        12.21,
        11.07,
        12.51,
        11.26,
        12.68,
        13.41,
        14.39,
        12.98,
        14.19,
        13.49,
        16.12,
        15.63,
    ]
    ins = [
        7.79,
        8.78,
        8.48,
        9.12,
        10.93,
        10.77,
        11.33,
        13.55,
        12.18,
        12.44,
        12.45,
        13.18,
        12.87,
        13.80,
        14.12,
        15.08,
        16.25,
    ]
    assert [find_step(dict(zip(WINDOW, ms, strict=True))) for ms in (outs, ins)] == [8, 8]


def test_a_straight_curve_has_the_finest_step():
    assert find_step({c: float(c) for c in WINDOW}) == 8


def test_inner_counts_may_even_cost_more_than_the_edge():
    """As bf16 does on some CPUs: 130 channels cost twice what 128 cost."""
    assert find_step({c: math.ceil(c / 16) * (1.0 if c % 16 == 0 else 1.3) for c in WINDOW}) == 16


def test_ladders():
    assert ladder(64, 16) == [16, 32, 48, 64]
    assert ladder(100, 16) == [16, 32, 48, 64, 96, 100]
    assert ladder(8, 16) == [8]
    assert ladder(2048, 16)[-1] == 2048 and len(ladder(2048, 16)) < 20


def surface(time, most_in=256, most_out=256, step=16):
    ins, outs = ladder(most_in, step), ladder(most_out, step)
    return Surface({(i, o): time(i, o) for i in ins for o in outs}, ins, outs, step)


def test_a_width_inside_a_step_costs_what_its_edge_costs():
    """The specification's vector: T(c) = ceil(c / 16); 64 -> 49 gains nothing, 64 -> 48 one."""
    s = surface(lambda i, o: math.ceil(o / 16))
    assert s.at(64, 49) == s.at(64, 64) == 4
    assert s.at(64, 48) == 3


def test_between_the_rungs_it_is_straight():
    s = surface(lambda i, o: 0.01 + i * o * 1e-4)
    for i, o in ((80, 112), (112, 240), (256, 144), (16, 16)):
        assert s.at(i, o) == pytest.approx(0.01 + i * o * 1e-4, rel=1e-6)


def test_what_was_measured_is_exact_and_edges_are_refined():
    def kinked(i, o):
        return (0.01 + i * o * 1e-4) * (0.7 if o == 224 else 1)

    ins, outs = ladder(256, 16), ladder(256, 16)
    times = {(i, o): kinked(i, o) for i in ins for o in outs} | {(256, o): kinked(256, o) for o in (208, 224, 240)}
    s = Surface(times, ins, outs, 16)
    assert s.at(256, 224) == kinked(256, 224)
    assert s.at(128, 224) == pytest.approx(kinked(128, 224), rel=1e-6), "the kink of the edge holds inside, too"
    s.exact[64, 49] = 7.0
    assert s.at(64, 49) == 7.0


def test_fixed_channels_have_one_rung():
    s = Surface({(3, o): float(o) for o in (16, 32)}, [3], [16, 32], 16)
    assert s.at(3, 32) == 32 and s.at(3, 24) == 32


def test_a_wider_step_needs_to_be_clear_of_the_noise():
    """Steps of 8 under noise of 10 %: read alone, one window in four looks like steps of 16; held against its noise, hardly any."""
    rng = np.random.default_rng(0)
    curves = [{c: math.ceil(c / 8) * rng.lognormal(0, 0.1) for c in WINDOW} for _ in range(300)]
    alone, held = (sum(find_step(curve, noise) > 8 for curve in curves) for noise in (0.0, 0.1))
    assert alone > 50 and held <= 5
    clear = {c: math.ceil(c / 16) * rng.lognormal(0, 0.01) for c in WINDOW}
    assert find_step(clear, 0.01) == 16
