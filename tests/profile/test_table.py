"""The latency table's file: keys, parallel writers, foreign files, resumed profiling."""

import re
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgeprune import progress
from edgeprune.deploy.staircases import judged, page
from edgeprune.errors import EdgepruneError, EngineError
from edgeprune.measure.patience import Patience
from edgeprune.profile import probes
from edgeprune.profile.probes import REFERENCE, Key
from edgeprune.profile.profiler import Profiler
from edgeprune.profile.table import Table, Where, default_path
from edgeprune.runtime.engine import Layer, middle
from edgeprune.runtime.signature import Signature

S = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (32, 64))
HERE = Where({"cpu": "a", "cores": 2}, "openvino 1", "f32")


def test_rows_are_kept_by_device_backend_precision_and_dilation(tmp_path):
    table = Table(tmp_path / "t.sqlite")
    table.add(HERE, {Key(S, 16, 32): 1.5})
    assert Table(tmp_path / "t.sqlite").times(HERE, [S]) == {Key(S, 16, 32): 1.5}
    for other in (
        replace(HERE, precision="bf16"), replace(HERE, backend="openvino 2"), replace(HERE, fingerprint={"cpu": "b", "cores": 2}),
    ):  # fmt: skip
        assert table.times(other, [S]) == {}
    assert table.times(HERE, [replace(S, dilation=(2, 2), padding=(2, 2))]) == {}
    table.add(HERE, {Key(S, 16, 32): 1.25})
    assert table.times(HERE, [S])[Key(S, 16, 32)] == 1.25
    assert [(row["count"], row["signature"]) for row in table.known()] == [(1, S.key)]


def test_signatures_that_differ_have_keys_that_differ():
    others = [
        S, replace(S, kernel=(1, 1)), replace(S, stride=(2, 2)), replace(S, dilation=(2, 2)), replace(S, groups=2),
        replace(S, groups=0), replace(S, size=(64, 32)), replace(S, batch=2), replace(S, kind="deconv"), replace(S, padding=(0, 1)),
    ]  # fmt: skip
    assert len({s.key for s in others}) == len(others)


def test_macs_of_a_signature():
    assert S.macs(16, 8) == 9 * 32 * 64 * 16 * 8
    assert replace(S, stride=(2, 2)).out_size == (16, 32)
    assert replace(S, groups=0).macs(0, 8) == 9 * 32 * 64 * 8
    up = Signature("deconv", (2, 2), (2, 2), (0, 0), (1, 1), 1, (16, 32))
    assert up.out_size == (32, 64) and up.macs(4, 2) == 4 * 16 * 32 * 8


WRITER = """
import sys
from pathlib import Path
from edgeprune.profile.probes import Key
from edgeprune.profile.table import Table, Where
from edgeprune.runtime.signature import Signature
s = Signature("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1, (32, 64))
table = Table(Path(sys.argv[1]))
for n in range(100):
    table.add(Where({"cpu": "a", "cores": 2}, "openvino 1", "f32"), {Key(s, int(sys.argv[2]), n): float(n)})
"""


def test_processes_may_write_at_once(tmp_path):
    path = str(tmp_path / "t.sqlite")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(k)]) for k in range(3)]
    assert [w.wait(120) for w in writers] == [0, 0, 0]
    assert len(Table(tmp_path / "t.sqlite").times(HERE, [S])) == 300


def test_another_schema_is_refused(tmp_path):
    base = sqlite3.connect(tmp_path / "t.sqlite")
    base.execute("PRAGMA user_version=99")
    base.commit()
    with pytest.raises(EdgepruneError, match="schema 99"):
        Table(tmp_path / "t.sqlite")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.sqlite").write_text("not a database, but long enough to be taken for one " * 40)
    with pytest.raises(EdgepruneError, match="not a latency table"):
        Table(tmp_path / "t.sqlite")


def test_a_damaged_table_is_one_line_whenever_it_is_noticed(tmp_path):
    path = tmp_path / "t.sqlite"
    table = Table(path)
    table.add(HERE, {Key(S, i, o): 1.0 for i in range(60) for o in range(60)})
    table.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(EdgepruneError, match=r"a damaged one .*delete it"):
        Table(path).times(HERE, [S])


def test_a_table_that_cannot_be_written_is_one_line_that_says_where_to_put_it(tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder.sqlite", tmp_path / "file" / "t.sqlite"):
        with pytest.raises(EdgepruneError, match="EDGEPRUNE_TABLE to a file that can be written"):
            Table(path)


def test_engines_are_kept_with_what_was_predicted_of_them(tmp_path):
    table = Table(tmp_path / "t.sqlite")
    table.add(HERE, {Key(S, 16, 32): 1.5})
    for width, ms, predicted in ((8, 2.0, 2.2), (16, 4.0, 4.0), (24, 5.0, None)):
        table.add_engine(HERE, "net", {"a": width}, ms, 10.0, predicted)
    assert [(e["ms"], e["fingerprint"]["cpu"]) for e in table.engines()] == [(2.0, "a"), (4.0, "a"), (5.0, "a")]
    (row,) = judged(table.engines())
    assert row["network"] == "net" and row["engines"] == 2 and row["mape"] == pytest.approx(0.05)
    text = page("t", table.known(), [table.curve(r) for r in table.known()], table.engines())
    assert "How far predictions were off" in text and "5.0 %" in text


def test_profiling_tells_how_long_it_will_take_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    with progress.Progress("latency table", 40, unit="operators") as bar:
        bar.move(10)
    assert re.search(r"latency table: 10 of 40 operators, \d+ s left", capsys.readouterr().err)


def test_times_that_were_disturbed_most_of_the_time_give_way_to_the_least():
    assert middle([[1.0, 1.02, 1.04, 1.1, 9.0]]) == [pytest.approx(1.02)]
    assert middle([[9.0, 5.0, 1.0, 6.0, 7.0]]) == [1.0]


def test_the_file_can_be_told(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPRUNE_TABLE", str(tmp_path / "x.sqlite"))
    assert default_path() == tmp_path / "x.sqlite"


class Device:
    """A device with a staircase of 16 that counts what it is asked."""

    def __init__(self, fail_after=None):
        self.asked, self.fail_after, self.speed = [], fail_after, 1.0

    def layers(self, path, precision):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        from edgeprune.profile.context import convolutions

        found = convolutions(path)
        self.asked.append(len(found))
        return [Layer(name, "Convolution", self.speed * cost(k)) for name, k in found.items()]


def cost(key):
    return 1e-3 + key.signature.macs(max(1, key.inputs), -(-key.outputs // 16) * 16) * 1e-8


def test_profiling_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "_MOST_KEYS", 10)
    keys = [Key(S, i, o) for i in (16, 32, 48, 64) for o in range(16, 129, 16)]
    broken = Device(fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        Profiler(Table(tmp_path / "t.sqlite"), HERE, broken.layers, quiet=True).ensure(keys)
    device = Device()
    profiler = Profiler(Table(tmp_path / "t.sqlite"), HERE, device.layers, quiet=True)
    found = profiler.ensure(keys)
    assert profiler.measured == len(keys) - 20
    assert found == {k: pytest.approx(cost(k)) for k in keys}
    assert Profiler(Table(tmp_path / "t.sqlite"), HERE, device.layers, quiet=True).ensure(keys) == found
    assert len(device.asked) == 2


def test_a_machine_that_has_become_slower_is_accounted_for(tmp_path):
    device = Device()
    profiler = Profiler(Table(tmp_path / "t.sqlite"), HERE, device.layers, quiet=True)
    profiler.ensure([Key(S, 16, 16)])
    device.speed = 1.7
    found = profiler.ensure([Key(S, 16, 64), REFERENCE])
    assert found[Key(S, 16, 64)] == pytest.approx(cost(Key(S, 16, 64)))


def test_a_neighbour_that_slows_large_convolutions_more_than_small_ones_is_accounted_for(tmp_path):
    """Measured on a busy core: the reference took 2.5 times as long, small convolutions 1.3 times; by its pace they were halved."""
    device = Device()
    profiler = Profiler(Table(tmp_path / "t.sqlite"), HERE, device.layers, quiet=True)
    profiler.ensure([Key(S, 16, o) for o in (16, 64, 128)])

    def busy(path, precision):
        large = cost(REFERENCE) / 2
        return [Layer(x.name, x.kind, x.ms * (2.5 if x.ms > large else 1.3)) for x in device.layers(path, precision)]

    profiler = Profiler(Table(tmp_path / "t.sqlite"), HERE, busy, quiet=True)
    wanted = [Key(S, 16, 48), Key(S, 16, 96)]
    assert profiler.ensure(wanted) == {k: pytest.approx(cost(k)) for k in wanted}
    assert profiler.ensure([Key(S, 16, 64)])[Key(S, 16, 64)] == pytest.approx(cost(Key(S, 16, 64))), (
        "what ran along is kept"
    )


def test_a_backend_that_loses_a_layer_is_told(tmp_path):
    device = Device()
    lossy = lambda path, precision: device.layers(path, precision)[:-4]  # noqa: E731
    with pytest.raises(EngineError, match="gives no time for conv k3x3"):
        Profiler(Table(tmp_path / "t.sqlite"), HERE, lossy, quiet=True).ensure([Key(S, 16, o) for o in (16, 32)])


def test_a_disturbed_measurement_is_taken_again(tmp_path):
    """A time that the next wider convolution does not take was disturbed; the lesser of two is kept."""
    from types import SimpleNamespace

    device, spoilt = Device(), []

    def layers(path, precision):
        from edgeprune.profile.context import convolutions

        found = device.layers(path, precision)
        for n, key in enumerate(convolutions(path).values()):
            if (key.inputs, key.outputs) == (32, 48) and key not in spoilt:
                spoilt.append(key)
                found[n] = found[n]._replace(ms=50.0)
        return found

    wide = SimpleNamespace(parts={"a": 1}, at=lambda w: w["a"])
    op = SimpleNamespace(name="x", signature=S, inputs=wide, outputs=wide)
    surface = Profiler(Table(tmp_path / "t.sqlite"), HERE, layers, quiet=True).surfaces([op], {"a": 64}, 16)[S]
    assert spoilt and surface.at(32, 48) == pytest.approx(cost(Key(S, 32, 48)))
    assert Table(tmp_path / "t.sqlite").times(HERE, [S])[Key(S, 32, 48)] < 1


def test_a_single_width_that_took_longer_than_a_wider_one_is_measured_again(tmp_path):
    """As contests and loops ask for them: one small convolution alone, which read 0.072 ms where wider ones take 0.017."""
    from edgeprune.profile.context import convolutions

    device, times = Device(), []

    def layers(path, precision):
        times.append(1)
        counts = [(k.inputs, k.outputs) for k in convolutions(path).values()]
        odd = counts.index((16, 32)) if len(times) == 2 else None
        return [x._replace(ms=50.0) if n == odd else x for n, x in enumerate(device.layers(path, precision))]

    profiler = Profiler(Table(tmp_path / "t.sqlite"), HERE, layers, quiet=True)
    profiler.ensure([Key(S, 32, 64), REFERENCE])
    assert profiler.ensure([Key(S, 16, 32)]) == {Key(S, 16, 32): pytest.approx(cost(Key(S, 16, 32)))}
    assert len(times) == 3
    assert Table(tmp_path / "t.sqlite").times(HERE, [S])[Key(S, 16, 32)] == pytest.approx(cost(Key(S, 16, 32)))
    profiler.ensure([Key(S, 16, 48)])
    assert len(times) == 4, "nothing is odd about it"


def test_a_step_that_noise_has_widened_is_not_believed(tmp_path):
    """All counts seem to cost the same at first, as on a machine that does other work: the window is measured again."""

    class Noisy(Device):
        def layers(self, path, precision):
            found = super().layers(path, precision)
            return [layer._replace(ms=50.0) for layer in found] if len(self.asked) == 1 else found

    assert Profiler(Table(tmp_path / "a.sqlite"), HERE, Device().layers, quiet=True).step() == 16
    assert Profiler(Table(tmp_path / "b.sqlite"), HERE, Noisy().layers, quiet=True).step() == 16


class Eights(Device):
    """Steps of 8, and noise in the first so many graphs."""

    def __init__(self, noisy: int, seed: int) -> None:
        super().__init__()
        self.noisy, self.rng = noisy, np.random.default_rng(seed)

    def layers(self, path, precision):
        from edgeprune.profile.context import convolutions

        super().layers(path, precision)
        spread = 0.12 if len(self.asked) <= self.noisy else 0.003
        each = {n: k.signature.macs(*(-(-c // 8) * 8 for c in k[1:])) * 1e-8 for n, k in convolutions(path).items()}
        return [Layer(n, "Convolution", ms * self.rng.lognormal(0, spread)) for n, ms in each.items()]


def test_steps_of_8_are_never_read_as_wider_ones_on_a_noisy_machine(tmp_path):
    found, lines = [], []
    for seed in range(12):
        patience = Patience(lines.append, 60, sleep=lambda _: None)
        profiler = Profiler(
            Table(tmp_path / f"{seed}.sqlite"), HERE, Eights(4, seed).layers, quiet=True, patience=patience
        )
        found.append(profiler.step())
    assert found == [8] * 12
    device = Eights(99, 0)  # never quiet: the safe one
    assert Profiler(Table(tmp_path / "n.sqlite"), HERE, device.layers, quiet=True).step() == 8


def test_many_operators_that_take_longer_than_wider_ones_are_waited_for(tmp_path):
    """A cliff of the kernels stays; a neighbour's work does not."""
    from edgeprune.profile.context import convolutions

    device, lines = Device(), []
    keys = [Key(S, 16, o) for o in range(16, 257, 16)]

    def cliff(key):
        return cost(key) * (3 if key.outputs == 48 else 1)

    def layers(path, precision):
        found = device.layers(path, precision)
        turn = len(device.asked)
        spoilt = {1: 20.0, 2: 6.0}.get(turn, 1.0)
        return [
            x._replace(ms=cliff(k) * (spoilt if k.outputs % 32 and k != REFERENCE else 1))
            for x, k in zip(found, convolutions(path).values(), strict=True)
        ]

    patience = Patience(lines.append, 60, sleep=lambda _: None)
    found = Profiler(Table(tmp_path / "t.sqlite"), HERE, layers, quiet=True, patience=patience).ensure(keys)
    assert found == {k: pytest.approx(cliff(k), rel=0.01) for k in keys}
    assert len(lines) == 1 and "took longer than wider ones do" in lines[0]


def test_what_is_forgotten_is_measured_again(tmp_path):
    device, table = Device(), Table(tmp_path / "t.sqlite")
    profiler = Profiler(table, HERE, device.layers, quiet=True)
    other = replace(S, kernel=(1, 1), padding=(0, 0))
    profiler.ensure([Key(S, 16, 16), Key(other, 16, 16)])
    table.forget(HERE, [S])
    assert not table.times(HERE, [S]) and len(table.times(HERE, [other])) == 1
    profiler.ensure([Key(S, 16, 16)])
    assert table.times(HERE, [S])
