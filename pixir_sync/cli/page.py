"""The report as one HTML page: no script, no font, no image from anywhere; light and dark by what the reader prefers.

Rules kept here:

* Every word that is not ours goes through `escape`; the page itself forbids its browser to load anything.
* A figure that is an estimate says so where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape

from pixir_sync.cli.charts import Series, bar, columns, legend
from pixir_sync.cli.figures import CANCELLED, OTHERS, Figures, edges, folded, percentile, ranked, timeline

__all__ = ["MARK", "page", "size"]

MARK = '<meta name="generator" content="pixir-sync report">'
"""Stands near the beginning of every page, which a new one may take the place of."""

_NAMES = {"websocket": "WebSocket", "http_sse": "HTTP"}
_ORDER = [("websocket", "delta"), ("websocket", "full"), ("http_sse", "full")]
_COLOURS = 5
_STYLE = """
:root{color-scheme:light dark;--text:#1c2024;--dim:#5c6670;--page:#fff;--card:#f4f6f8;--line:#d9dee3;
--c0:#2166ac;--c1:#d6802a;--c2:#7b5aa6;--c3:#3a9188;--c4:#8a8f94}
@media(prefers-color-scheme:dark){:root{--text:#e6e9ec;--dim:#9aa4ae;--page:#14171a;--card:#1e2328;--line:#353c43;
--c0:#6aaae4;--c1:#eda55a;--c2:#b496de;--c3:#66c2b5;--c4:#9aa0a6}}
*{box-sizing:border-box}body{margin:0 auto;padding:1rem;max-width:62rem;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,sans-serif}h1{font-size:1.4rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.3rem 0}.dim,figcaption,caption{color:var(--dim);font-size:.875rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1rem 0}
.card{background:var(--card);border-radius:.5rem;padding:.75rem}.card b{display:block;font-size:1.35rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .5rem;border-bottom:1px solid var(--line)}
td{white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere}th{font-weight:600}
caption{text-align:left}
td.wide{width:40%;min-width:5rem}figure{margin:.5rem 0}.chart{width:100%;max-width:44rem;display:block}
.chart text{fill:var(--dim);font-size:10px}.grid{stroke:var(--line);stroke-width:.7}.bar{width:100%;height:.7rem;display:block}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;font-size:.875rem}.key i{display:inline-block;width:.8rem;height:.8rem;
border-radius:.15rem;margin-right:.35rem}
""" + "".join(f".s{n}{{fill:var(--c{n});background:var(--c{n})}}" for n in range(_COLOURS))


def page(figures: Figures, name: str) -> str:
    """The page of these figures, of at least one turn; ``name`` is the file's."""
    by_series = folded(figures)
    parts = [
        f"<h1>Turns in {escape(name)}</h1>", _period(figures), _cards(figures), _over_time(by_series), _bytes(figures),
        _times(by_series), _counted("Why everything was sent", "reason", figures.resets, "No turn began a chain anew."),
        _counted("Errors", "kind", figures.errors, "No turn failed."),
        _counted("Fallbacks to HTTP", "reason", figures.fallbacks, "There was none."),
        _counted("Sent again", "reason", figures.replays, "Nothing was sent twice."),
        _counted("How the others ended", "end", figures.ends, "None did."), _counted("Models", "model", figures.models, "None."),
    ]  # fmt: skip
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"{MARK}"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Turns in {escape(name)}</title><style>{_STYLE}</style></head><body>"
    )
    return "\n".join([head, *parts, "</body></html>\n"])


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _when(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def _name(series: tuple[str, str]) -> str:
    return OTHERS[0] if series == OTHERS else f"{_NAMES.get(series[0], series[0])}, {series[1]}"


def _sorted(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(found, key=lambda one: (_ORDER.index(one) if one in _ORDER else len(_ORDER), one == OTHERS, one))


def _colour(at: int) -> int:
    return min(at, _COLOURS - 1)


def _period(figures: Figures) -> str:
    first, last = figures.period
    said = f"{_when(first)} to {_when(last)} UTC"
    if figures.skipped:
        said += f"; {figures.skipped:,} {'line was' if figures.skipped == 1 else 'lines were'} skipped: no record of a turn"
    return f'<p class="dim">{said}</p>'


def _cards(figures: Figures) -> str:
    tokens, left = figures.tokens, figures.ends[CANCELLED]
    firsts = sorted(value for values in figures.first_event_ms.values() for value in values)
    deltas = sum(len(times) for series, times in figures.started.items() if series[1] == "delta")
    cards = [
        ("turns", f"{figures.turns:,}", f"{figures.sums['attempts']:,} attempts"),
        ("failed", f"{figures.failed:,}", f"{figures.failed / figures.turns:.1%}; {left:,} more cancelled or left"),
        ("only what was new", f"{deltas:,}", f"{deltas / figures.turns:.1%} of the turns"),
        ("sent", size(figures.sums["bytes_sent_total"]), f"not sent again: {size(figures.sums['input_bytes_held'])}"),
        ("first event, median", _ms(percentile(firsts, 0.5)) if firsts else "none", f"of {len(firsts):,} turns"),
        ("input tokens", f"{tokens['input_tokens']:,}", f"{tokens['cached_tokens']:,} of them cached"),
        ("output tokens", f"{tokens['output_tokens']:,}", f"{tokens['reasoning_tokens']:,} of them reasoning"),
    ]  # fmt: skip
    shown = (f'<div class="card">{what}<b>{value}</b><span class="dim">{more}</span></div>' for what, value, more in cards)
    return f'<div class="cards">{"".join(shown)}</div>'


def _over_time(figures: Figures) -> str:
    length, steps = timeline(figures)
    turns, form = figures.turns, _form(length, steps[0].at, steps[-1].at)
    names = _sorted(figures.started)
    series = [Series(_name(one), _colour(at), [step.counts[one] for step in steps]) for at, one in enumerate(names)]
    chart = columns("Turns over time, by transport and by what was sent", [_when(step.at, form) for step in steps], series)
    rows = [(_name(one), f"{len(figures.started[one]):,}", f"{len(figures.started[one]) / turns:.1%}") for one in names]
    return (
        f"<h2>Turns over time</h2><figure>{chart}<figcaption>turns that began in each {length:,} s, UTC</figcaption></figure>"
        f"{legend(series)}{_table(('transport, what was sent', 'turns', 'share'), rows)}"
    )


def _form(length: int, first: int, last: int) -> str:
    """How the steps of the time are written: what tells them apart."""
    time = "" if length >= 86_400 else "%H:%M" if length >= 60 else "%H:%M:%S"
    if _when(first, "%Y") != _when(last, "%Y"):
        date = "%Y-%m-%d"
    else:
        date = "%m-%d" if not time or _when(first, "%j") != _when(last, "%j") else ""
    return f"{date} {time}".strip()


def _bytes(figures: Figures) -> str:
    sent, held = figures.sums["bytes_sent_total"], figures.sums["input_bytes_held"]
    most = max(sent, held, 1)
    rows = [("sent", size(sent), sent), ("not sent again, estimated", size(held), held)]
    body = "".join(f'<tr><td>{what}</td><td>{value}</td><td class="wide">{bar(count / most, at)}</td></tr>'
                   for at, (what, value, count) in enumerate(rows))  # fmt: skip
    return (
        f'<h2>Bytes</h2><div class="scroll"><table>{body}</table></div><p class="dim">Sent: all attempts of all turns, over HTTP '
        "with their headers. Not sent again: what the connections held of the histories when only the new was sent, counted as "
        "it had gone over the wire before. A full replay leaves a few fields of that out, so the saving is a little less: "
        f"at most {held / (sent + held or 1):.1%} of what full replays would have sent.</p>"
    )


def _times(figures: Figures) -> str:
    names = _sorted(figures.first_event_ms)
    if not names:
        return "<h2>First event</h2><p>No turn had one.</p>"
    bounds = edges(value for values in figures.first_event_ms.values() for value in values)
    labels = [f"<{bound:g}" if bound < 1000 else f"<{bound / 1000:g}s" for bound in bounds]
    series, rows = [], []
    for at, one in enumerate(names):
        values = sorted(figures.first_event_ms[one])
        places = Counter(next(place for place, bound in enumerate(bounds) if value < bound) for value in values)
        series.append(Series(_name(one), _colour(at), [places[place] for place in range(len(bounds))]))
        rows.append((_name(one), f"{len(values):,}", *(_ms(percentile(values, share)) for share in (0.5, 0.9, 0.99))))
    chart = columns("How many turns had their first event within which time", labels, series)
    return (
        f"<h2>First event</h2><figure>{chart}<figcaption>turns by the time from the sending to the first event, in ms"
        f"</figcaption></figure>{legend(series)}{_table(('transport, what was sent', 'turns', 'p50', 'p90', 'p99'), rows)}"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _counted(title: str, what: str, counts: Mapping[str, int], none: str) -> str:
    if not counts:
        return f"<h2>{title}</h2><p>{none}</p>"
    rows = ranked(counts)
    most = max(count for _, count in rows) or 1
    body = "".join(
        f'<tr><td>{escape(name)}</td><td>{count:,}</td><td class="wide">{bar(count / most)}</td></tr>' for name, count in rows
    )
    head = f'<thead><tr><th scope="col">{what}</th><th scope="col">count</th><td></td></tr></thead>'
    return f'<h2>{title}</h2><div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
