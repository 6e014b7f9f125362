"""From samples to rows with verdicts, and rows as a table, as JSON and as a page with bars."""

from __future__ import annotations

import html
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.workloads import Sample, Workload

Samples = dict[str, list[Sample]]  # by the server's name
OURS = "Posthouse"


@dataclass(slots=True)
class Row:
    """One line of the table: Posthouse beside one peer (or alone) in one workload."""

    key: str
    title: str
    unit: str
    peer: str
    theirs: float | None
    ours: float | None
    ratio: float | None  # above 1 is always better
    our_cpu_us: float | None
    their_cpu_us: float | None
    p99_ms: float | None
    own_cpu: float | None
    gate: float | None
    reach: float | None
    verdict: str


def rows(workload: Workload, samples: Samples) -> list[Row]:
    """A row for each peer that was measured; only the one that gates speak of has a verdict."""
    ours = samples.get(OURS)
    peers = [peer.value for peer in workload.peers if peer.value in samples]
    if not peers:
        return [_row(workload, "", None, ours, reference=True)] if ours else []
    best = _best(workload, samples)
    return [_row(workload, peer, samples[peer], ours, reference=peer == best) for peer in peers]


def _best(workload: Workload, samples: Samples) -> str | None:
    """The peer that the gate compares with: the fastest of those the design names."""
    named = [peer.value for peer in workload.reference if peer.value in samples]
    choose = min if workload.lower_is_better else max
    return choose(named, key=lambda name: _median(samples[name]), default=None)


def _median(samples: list[Sample]) -> float:
    return statistics.median(sample.figure for sample in samples)


def _row(
    workload: Workload, peer: str, theirs: list[Sample] | None, ours: list[Sample] | None, *, reference: bool
) -> Row:
    their_figure = _median(theirs) if theirs else None
    our_figure = _median(ours) if ours else None
    ratio = None
    if their_figure and our_figure:
        ratio = their_figure / our_figure if workload.lower_is_better else our_figure / their_figure
    our_cpu = statistics.median(s.cpu_us for s in ours) if ours else None
    their_cpu = statistics.median(s.cpu_us for s in theirs) if theirs else None
    return Row(
        workload.key,
        workload.title,
        workload.unit,
        peer,
        their_figure,
        our_figure,
        ratio,
        our_cpu,
        their_cpu,
        statistics.median(s.p99_ms for s in ours) if ours else None,
        statistics.median(s.own_cpu for s in ours) if ours else None,
        workload.gate if reference else None,
        workload.reach if reference else None,
        _verdict(workload, our_figure, ratio, our_cpu, their_cpu) if reference else "",
    )


def _verdict(
    workload: Workload, ours: float | None, ratio: float | None, our_cpu: float | None, their_cpu: float | None
) -> str:
    if ours is None:
        return ""
    if workload.reach_at_most is not None:
        return "goal" if ours <= workload.reach_at_most else f"above {workload.reach_at_most:g} {workload.unit}"
    if ratio is None:
        return ""
    if workload.gate is not None and ratio < workload.gate:
        return "BELOW GATE"
    if workload.reach is not None and ratio < workload.reach:
        return "gate" if workload.gate is not None else "below goal"
    if workload.reach_cpu is not None and our_cpu and their_cpu and our_cpu > workload.reach_cpu * their_cpu:
        return f"goal, but CPU 1/{their_cpu / our_cpu:.1f}"
    return "goal" if workload.reach is not None else ""


def failed(table: list[Row]) -> list[str]:
    """The workloads below their gate."""
    return [row.key for row in table if row.verdict == "BELOW GATE"]


_HEAD = (
    "workload",
    "unit",
    "peer",
    "theirs",
    "ours",
    "ratio",
    "gate",
    "reach",
    "verdict",
    "our CPU us",
    "their CPU us",
    "our p99 ms",
    "load CPU",
)


def table(found: list[Row]) -> str:
    """The rows as text in columns."""
    lines = [_HEAD] + [_cells(row) for row in found]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    text = []
    for line in lines:
        cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.key,
        row.unit,
        row.peer or "-",
        number(row.theirs),
        number(row.ours),
        f"{row.ratio:.2f}" if row.ratio is not None else "-",
        f"{row.gate:g}" if row.gate is not None else "-",
        f"{row.reach:g}" if row.reach is not None else "-",
        row.verdict or "-",
        number(row.our_cpu_us),
        number(row.their_cpu_us),
        number(row.p99_ms),
        number(row.own_cpu),
    )


def number(value: float | None) -> str:
    """A figure with three or more digits that mean something."""
    if value is None or value != value:  # a float that is not itself is not a number
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_json(machine: dict[str, object], found: list[Row], samples: dict[str, Samples], memory: dict[str, int]) -> str:
    """Everything that was measured, each sample of each round, for later comparison."""
    return json.dumps(
        {
            "machine": machine,
            "memory_kib": memory,
            "rows": [asdict(row) for row in found],
            "samples": {
                key: {name: [asdict(sample) for sample in runs] for name, runs in by_server.items()}
                for key, by_server in samples.items()
            },
        },
        indent=1,
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; } h2 small { color: #666; font-weight: normal; }
.bar { display: grid; grid-template-columns: 15rem 1fr 6rem; gap: .6rem; align-items: center; margin: .15rem 0; }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.bar i { display: block; height: 1.1rem; background: #9aa5b1; border-radius: 2px; min-width: 2px; }
.bar.ours i { background: #1f6feb; } .bar.ours span { font-weight: 600; }
p.note { color: #555; margin: .2rem 0; font-size: .92rem; }
table { border-collapse: collapse; font-size: .9rem; } td { padding: .1rem .8rem .1rem 0; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } p.note, h2 small { color: #aaa; } }
"""


def as_page(machine: dict[str, object], chosen: list[Workload], samples: dict[str, Samples], found: list[Row]) -> str:
    """A page of its own, without scripts, with a bar for each server in each workload."""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Posthouse: measurements</title>',
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>Posthouse beside Postfix and Dovecot</h1>",
        "<p>All servers ran side by side on one machine, with full durability: a letter counts when it lies in its"
        " mailbox and the disk has it. Only the ratios mean something elsewhere; the absolute figures are those of"
        " the machine below.</p>",
    ]
    for workload in chosen:
        if workload.key in samples:
            parts.append(_bars(workload, samples[workload.key], [row for row in found if row.key == workload.key]))
    parts.append("<h2>The machine</h2>\n<table>")
    parts += [
        f"<tr><td>{html.escape(str(name).replace('_', ' '))}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in machine.items()
    ]
    parts.append("</table>\n</body></html>\n")
    return "\n".join(parts)


def _bars(workload: Workload, samples: Samples, found: list[Row]) -> str:
    figures = {name: _median(runs) for name, runs in samples.items()}
    longest = max(figures.values())
    better = "less is better" if workload.lower_is_better else "more is better"
    lines = [
        f"<h2>{workload.key}: {html.escape(workload.title)} <small>{workload.unit}, {better}</small></h2>",
    ]
    for name, figure in figures.items():
        width = 100 * figure / longest if longest else 0
        kind = "bar ours" if name == OURS else "bar"
        lines.append(
            f'<div class="{kind}"><span>{html.escape(name)}</span>'
            f'<i style="width:{width:.1f}%"></i><span>{number(figure)}</span></div>'
        )
    lines += [f'<p class="note">{html.escape(text)}</p>' for text in _remarks(workload, found)]
    return "\n".join(lines)


def _remarks(workload: Workload, found: list[Row]) -> list[str]:
    texts = list(workload.notes)
    for row in found:
        if row.ratio is not None and row.verdict:
            gate = f", gate {row.gate:g}" if row.gate is not None else ""
            texts.append(f"{row.ratio:.1f} times {row.peer} (goal {row.reach or 0:g}{gate}).")
        if row.our_cpu_us and row.their_cpu_us and row.verdict:
            texts.append(f"Server CPU: {number(row.our_cpu_us)} against {number(row.their_cpu_us)} microseconds each.")
    return texts


def write(folder: Path, name: str, text_json: str, page: str) -> tuple[Path, Path]:
    """Write the results of a run and, beside them, the page of the newest run."""
    folder.mkdir(parents=True, exist_ok=True)
    results, newest = folder / f"{name}.json", folder / "index.html"
    results.write_text(text_json + "\n", encoding="utf-8")
    newest.write_text(page, encoding="utf-8")
    return results, newest
