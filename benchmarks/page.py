"""A self-contained HTML page: no network, no scripts, light and dark, readable on a phone.

Every text goes through :func:`benchmarks.drawing.escape`; a content security policy forbids scripts
and requests even if an escape were missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.drawing import CHART_STYLE, escape

__all__ = ["document", "facts"]


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """The whole page around its parts (HTML; empty ones are left out), with style of its own."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
        '<meta name="color-scheme" content="light dark"/>'
        f"<title>{escape(title)}</title><style>{CHART_STYLE}{_STYLE}{style}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in parts if part) + "\n</main></body></html>\n"
    )


def facts(groups: Mapping[str, Mapping[str, str]], command: str) -> str:
    """The last section: heading → name → value, and the command that repeats it."""
    lists = "".join(
        f"<div><h3>{escape(heading)}</h3><dl>"
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
        + "</dl></div>"
        for heading, values in groups.items()
    )
    return (
        f"<section><h2>Data, models, settings</h2><div class='facts'>{lists}</div>"
        f"<h3>Command</h3><pre>{escape(command)}</pre></section>"
    )


_STYLE = """
:root{--bg:#fdfcfa;--ink:#1d1c1a;--muted:#6d6961;--line:#e5e1d9;--card:#f5f2ec;--warm:#efeae0;
--c1:#c2452d;--c2:#2c6bb3;--c3:#2f8a5b;--c4:#8d57b0;--c5:#a87b12;--with:#0d8b94;
--font:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"PingFang SC",
"Hiragino Sans GB","Microsoft YaHei","Noto Sans CJK SC","Noto Sans SC","Source Han Sans SC",
"WenQuanYi Micro Hei",sans-serif}
@media (prefers-color-scheme:dark){:root{--bg:#16181b;--ink:#e9e6e0;--muted:#9c978d;--line:#30343a;
--card:#1e2125;--warm:#23272c;--c1:#f0806a;--c2:#79b0ee;--c3:#6fcb98;--c4:#c79ae6;--c5:#dcb04e;
--with:#4fc9d1}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 var(--font)}
main{max-width:1120px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:1.9rem;line-height:1.2;margin:.1em 0 .5em;letter-spacing:-.015em;
overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:0 0 .35em;letter-spacing:-.01em}
h3{font-size:.95rem;margin:0 0 .3em}
section{margin-top:44px;padding-top:22px;border-top:1px solid var(--line)}
p{margin:.2em 0 .8em;max-width:72ch}
.eyebrow{text-transform:uppercase;letter-spacing:.12em;font-size:.72rem;color:var(--muted);margin:0}
.note,figcaption,.silent{color:var(--muted);font-size:.88rem}
.silent{font-style:italic}
blockquote{margin:0;padding:14px 18px;background:var(--card);border-left:3px solid var(--c1);
border-radius:0 6px 6px 0;overflow-wrap:anywhere;white-space:pre-line}
figure{margin:0}
.forest{max-width:760px;min-width:480px}.forest .name{font-size:13px;fill:var(--ink)}
.tick{font-size:10px;font-variant-numeric:tabular-nums}.forest .tick{font-size:11px}
.floor{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:4 3}
.whisker{stroke-width:3;stroke-linecap:round;opacity:.45}
.dot{stroke:none}
.dimensions{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:26px 28px}
.dimension{grid-column:span 4}.dimension.n1{grid-column:span 1}.dimension.n3{grid-column:span 3}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:14px 24px}
.dimension.n1 .panels{grid-template-columns:1fr}
.dimension.n3 .panels{grid-template-columns:repeat(3,minmax(0,1fr))}
.dimension.n6 .panels{grid-template-columns:repeat(3,minmax(0,1fr))}
.dimension.n6{grid-column:span 3}
.panel figcaption{font-size:.8rem;color:var(--ink);margin-bottom:2px}
.dimension h3{border-bottom:1px solid var(--line);padding-bottom:3px;text-transform:capitalize}
.scroll{overflow-x:auto;margin:0 -4px}
.figures{border-collapse:collapse;font-size:.82rem;font-variant-numeric:tabular-nums;width:100%}
.figures th,.figures td{padding:6px 8px;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
.figures thead th{color:var(--muted);font-weight:500;white-space:normal;vertical-align:bottom;
line-height:1.2}
.figures th:first-child{text-align:left;font-weight:600}
.figures .ci{color:var(--muted);font-weight:400;display:block;font-size:.92em}
.figures .lead,.figures .best,.figures .shown td{font-weight:650}
.figures tr.floor th,.figures tr.floor td{color:var(--muted);font-weight:400}
.figures tr.floor td.lead{font-weight:400}
.sample{margin:0 0 20px}
.sample h3{color:var(--muted);font-weight:500}
.reactions{border-collapse:collapse;width:100%;table-layout:fixed;font-size:.9rem;
background:var(--card);border-radius:8px}
.reactions.k3{min-width:540px}.reactions.k4{min-width:720px}.reactions.k5{min-width:900px}
.reactions.k6{min-width:1060px}
.reactions th{font-size:.82rem;text-align:left;padding:9px 14px 5px}
.reactions td{padding:6px 14px;border-top:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
.reactions td+td,.reactions th+th{border-left:1px solid var(--line)}
.fields{margin:0 0 12px}
.fields div{display:grid;grid-template-columns:110px 1fr;gap:12px;padding:8px 0;
border-bottom:1px solid var(--line)}
.fields dt{color:var(--muted);font-size:.82rem}
.fields dd{margin:0;font-size:.9rem;white-space:pre-line;overflow-wrap:anywhere}
details summary{cursor:pointer;color:var(--muted);font-size:.88rem;margin-bottom:8px}
details{margin-bottom:22px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:26px 34px;
margin-bottom:20px}
.facts dl{margin:0;font-size:.88rem}
.facts dl div{display:grid;grid-template-columns:130px 1fr;gap:10px;padding:4px 0;
border-bottom:1px solid var(--line)}
.facts dt{color:var(--muted)}.facts dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--card);padding:12px 14px;border-radius:8px;font-size:.82rem;
white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
@media (max-width:820px){.dimensions{grid-template-columns:minmax(0,1fr)}
.dimension,.dimension.n1,.dimension.n3,.dimension.n6{grid-column:auto}
.dimension.n3 .panels,.dimension.n6 .panels,.dimension.n1 .panels{
grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
main{padding:24px 16px 60px}h1{font-size:1.5rem}
.fields div,.facts dl div{grid-template-columns:1fr;gap:0}}
@media print{:root{--bg:#fff;--ink:#000;--muted:#555;--line:#ccc;--card:#f4f4f4;--warm:#eee}
main{max-width:none;padding:0}section{margin-top:24px}figure,.sample,tr{break-inside:avoid}
h2,h3{break-after:avoid}details{display:none}}
"""
