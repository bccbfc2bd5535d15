"""The report's table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.recipe.units import amount


def show(console: Console, report: dict[str, Any], folder: Path) -> None:
    """Print what came out, the gates, and where things lie."""
    console.print(_networks(report))
    console.print(_classes(report))
    console.print(_gates(report))
    if told := report["precisions"]:
        console.print(_precisions(told) if told["candidates"] else untried(told), highlight=False)
    key = report["metric"]["key"]
    more = report["training_steps"]["prune"] + report["training_steps"]["finetune"]
    if report["pruned"][key] > report["dense"][key] and more:
        console.print(
            f"the pruned network was trained {more} steps longer than the dense one: its gain may be that alone"
        )
    if protocol := report["dense"].get("evaluate"):
        console.print(f"dense and pruned in PyTorch are {judged_by(protocol)}; the engine, and the gates, at data.size")
    _budget(console, report)
    speed = report["speedup"]
    if report["engine"]["measured"]:
        low, high = speed["ci95"]
        console.print(
            f"speed-up {speed['median']:.2f} [95 % of this session {low:.2f}, {high:.2f}], measured in {report['engine']['latency']['count']} "
            f"interleaved pairs{_left_out(speed)}; MACs fell {speed['macs_ratio']:.2f} times"
        )
        boundaries = report["boundaries"] or {"boundaries": {}, "during": {"throttled": []}}
        for name, row in boundaries["boundaries"].items():
            console.print(
                f"  {name}: p50 {row['p50']:.3f} ms, p99 {row['p99']:.3f} {'; '.join(row['warnings'])}", highlight=False
            )
        for reason in dict.fromkeys([*boundaries["during"]["throttled"], *speed.get("throttled", [])]):
            console.print(f"[bold red]not to be trusted: {escape(reason)}[/bold red]")
    else:
        console.print(
            f"[yellow]not measured: {escape(report['engine']['why_not'])}.[/yellow] The graph was checked by ONNX Runtime.\n"
            f"Next: copy {escape(str(report['bundle']))} to the device, unpack it, and run `./run.sh` there (python3 check.py); then here: "
            "edgeprune verify --result result.zip"
        )
    console.print(
        f"report: {escape(str(folder / 'report.html'))}   numbers: {escape(str(folder / 'report.json'))}",
        soft_wrap=True,
    )
    for line in report["headline"]:
        console.print(line, style="bold red", markup=False, highlight=False, soft_wrap=True)


def untried(precisions: dict[str, Any]) -> str:
    """Why `deploy.precision: fastest` could not choose, in one line."""
    return f"precision: fastest was asked for; {precisions['chosen']}, the target's own, was taken untried: {precisions['why_not']}"


def judged_by(protocol: dict[str, Any]) -> str:
    """`data.evaluate` in words."""
    how = "judged on whole images" if protocol["mode"] == "whole" else "judged by sliding windows"
    how += " at the labels' own size" if protocol["native"] else ""
    how += " with flips" if protocol["flip"] else ""
    return how + (f" at scales {', '.join(f'{s:g}' for s in protocol['scales'])}" if protocol["scales"] != [1] else "")


def _budget(console: Console, report: dict[str, Any]) -> None:
    """A latency budget's line, and the layers where the MACs' promise was lost."""
    b, layers = report["budget"], report["layers"]
    if b.get("unit") and b["measured"]:
        console.print(
            f"budget {b['kind']}: {amount(b['kind'], b['achieved'])} [95 % {b['ci95'][0]:.3f}, {b['ci95'][1]:.3f}] of "
            f"{amount(b['kind'], b['limit'])}, "
            f"{'[green]met[/green]' if b['met'] else '[red]not met[/red]'}, {b['engines_built']} engines tried before fine-tuning"
        )
    elif b.get("unit"):
        console.print(
            f"[yellow]budget {b['kind']}: planned on an estimate ({b['achieved']:.3f} of {amount(b['kind'], b['limit'])})[/yellow]"
        )
    if layers:
        lost = [
            r for r in layers["rows"] if r["promised"] - r["saved"] > 0.02 * sum(x["ms"][0] for x in layers["rows"])
        ]
        for r in lost[:3]:
            console.print(
                f"{r['name']}: MACs promised to save {r['promised']:.3f} ms, {r['saved']:.3f} were saved ({r['why']})"
            )


def _networks(report: dict[str, Any]) -> Table:
    size = "x".join(map(str, report["data"]["size"]))
    made = report["engine"]
    images = f"{report['data']['val_images']} images"
    if made["images"] != report["data"]["val_images"]:
        images += f"; the engine and the gates: the {made['images']} that travelled"
    table = Table(title=escape(f"{report['recipe']}@{report['target']}: {report['title']} ({size}, {images})"))
    metric = report["metric"]
    key, (more, more_name) = metric["key"], metric["more"]
    for column in ("", metric["name"], more_name, "parameters", "MACs", "latency p50 (p99)", "FPS"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("dense", "pruned"):
        row = report[name]
        table.add_row(
            f"{name} (PyTorch)", f"{100 * row[key]:.2f}", f"{100 * row[more]:.2f}", f"{row['params'] / 1e6:.3f} M",
            f"{row['macs'] / 1e9:.3f} G", "", "",
        )  # fmt: skip
    found = made["precision_found"]
    last = f"pruned engine, {found}" if made["measured"] else "pruned graph (ONNX Runtime)"
    rows = [(f"dense engine, {found}", made["dense_latency"])] if made["measured"] else []
    for name, latency in [*rows, (last, made["latency"])]:
        judged = name == last
        table.add_row(
            name, f"{100 * made[key]:.2f}" if judged else "", f"{100 * made[more]:.2f}" if judged else "", "", "",
            f"{latency['p50']:.2f} ({latency['p99']:.2f}) ms" if latency else "not measured",
            f"{1000 / latency['p50']:.1f}" if latency else "",
        )  # fmt: skip
    return table


def _classes(report: dict[str, Any]) -> Table:
    metric = report["metric"]
    table = Table(title=f"{metric['of_class']} per class")
    for column in ("class", "dense", "pruned", "engine" if report["engine"]["measured"] else "graph"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name in report["data"]["classes"]:
        rows = (report[r][metric["per_class"]][name] for r in ("dense", "pruned", "engine"))
        table.add_row(escape(name), *("-" if v is None else f"{100 * v:.1f}" for v in rows))
    return table


def _precisions(told: dict[str, Any]) -> Table:
    table = Table(title=f"precisions, against {told['reference']}'s time")
    for column in ("asked", "found", "of its time", "95 %", ""):
        table.add_column(column, justify="right" if column in ("of its time", "95 %") else "left")
    for row in told["candidates"]:
        timed = row["share"] is not None and row["asked"] != told["reference"]
        share = f"{row['share']:.2f}" if timed else "1" if row["share"] else ""
        interval = "[{:.2f}, {:.2f}]".format(*row["ci95"]) if timed else ""
        style = "[bold green]" if row["chosen"] and row["passed"] else ""
        table.add_row(f"{style}{row['asked']}", row["found"] or "", share, escape(interval), escape(row["verdict"]))
    return table


def _gates(report: dict[str, Any]) -> Table:
    table = Table(title="gates")
    for column in ("gate", "limit", "value", ""):
        table.add_column(column, justify="right" if column in ("limit", "value") else "left")
    for g in report["gates"]:
        counted = g["limit"] >= 1e5  # MACs, parameters
        limit = f"{g['limit'] / 1e6:.4f} M" if counted else f"{g['limit']:g}"
        if g["value"] is None:
            value = "nothing to check"
        elif counted:
            value = f"{g['value'] / 1e6:.4f} M"
        else:
            value = f"{g['value']:+.3f}" if "drop" in g["name"] else f"{g['value']:.4g}"
        mark = "[green]passed[/green]" if g["passed"] else "[bold red]FAILED[/bold red]"
        table.add_row(g["name"], limit, value, f"{mark} {escape(g['note'])}")
    return table


def _left_out(speed: dict[str, Any]) -> str:
    """How many pairs other programs cut into, where they did."""
    out, busy = speed.get("disturbed"), speed.get("busy")
    said = f" ({out} more left out, which other programs had cut into)" if out else ""
    return said + (f" [yellow](and into {busy} of these: the machine was never quiet)[/yellow]" if busy else "")
