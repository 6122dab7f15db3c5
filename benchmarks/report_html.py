"""Turn a report's Markdown into one self-contained HTML page, also for phones, light or dark as the reader prefers."""

from __future__ import annotations

import base64
import re

from benchmarks.report_markdown import FOLDER

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #5c5c5c; --line: #d9d9d9; --edge: #0006; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --soft: #a3a3a3; --line: #3a3d41; --edge: #fff6; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p, ul { max-width: 60rem; }
ul { padding-left: 1.2rem; }
/* A table that is too wide shows a scroll bar, and a shadow at the edge behind which it goes on. */
.table { overflow-x: auto; margin: 0.75rem 0; scrollbar-width: thin; background:
  linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--edge), transparent) right / 1.25rem 100% no-repeat scroll; }
.table::-webkit-scrollbar { height: 0.6rem; background: var(--line); }
.table::-webkit-scrollbar-thumb { background: var(--soft); border-radius: 0.3rem; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper);
  white-space: normal; min-width: 10rem; }
@media (max-width: 40rem) {
  table { font-size: 0.8125rem; }
  th, td { padding: 0.25rem 0.4rem; }
  th { white-space: normal; }
}
p:has(img) { max-width: none; display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
img { width: 100%; height: auto; max-width: 34rem; display: block; }
summary { cursor: pointer; margin: 1rem 0; font-weight: 600; }
"""


def render(text: str, pictures: dict[str, str]) -> str:
    """Return a page of a report's Markdown, with these pictures by name, as SVG."""
    import markdown

    text = text.replace("<details>", '<details markdown="1">').replace("<summary>", '<summary markdown="span">')
    body = markdown.markdown(text, extensions=["tables", "md_in_html", "sane_lists"], output_format="html")
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>').replace("</table>", "</table></div>")
    for name, picture in pictures.items():
        data = base64.b64encode(picture.encode()).decode()
        body = body.replace(f'src="{FOLDER}/{name}.png"', f'src="data:image/svg+xml;base64,{data}"')
    body = re.sub(r"(\w) = (?=\w)", r"\1&nbsp;=&nbsp;", body)  # keep sizes such as N = 128 in one line
    title = text.splitlines()[0].removeprefix("# ")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""
