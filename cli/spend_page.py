"""The frame of the HTML report: its style, and where the parts go. Braces of CSS are doubled."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}, {period}</title>
<style>
:root {{
  --page: #ffffff; --text: #1c2430; --soft: #5b6675; --line: #d5dae1; --tile: #f4f6f9;
  --c0: #0072b2; --c1: #e69f00; --c2: #009e73; --c3: #cc79a7; --c4: #56b4e9; --c5: #8c8c8c;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --page: #12161c; --text: #e6eaf0; --soft: #a2adbb; --line: #36404d; --tile: #1c232d;
    --c0: #4fa8e0; --c1: #f0b43c; --c2: #35c79b; --c3: #e39ac3; --c4: #9ad4f5; --c5: #9aa3ad;
  }}
}}
* {{ box-sizing: border-box; }}
body {{
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: var(--page);
  color: var(--text); font: 16px/1.45 system-ui, sans-serif;
}}
h1 {{ font-size: 1.5rem; margin: 0; }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
header p, section > p, footer {{ color: var(--soft); margin: .2rem 0; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }}
.tiles div {{
  flex: 1 1 9rem; background: var(--tile); border-radius: .5rem; padding: .7rem .9rem;
}}
dt {{ color: var(--soft); font-size: .85rem; }}
dd {{ margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }}
dd small {{ display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }}
figure {{ margin: 0; }}
figure svg {{ display: block; width: 100%; height: auto; }}
.narrow {{ display: none; }}
.keys {{
  list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; margin: .4rem 0;
}}
.keys i {{
  display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .4rem;
}}
.c0 {{ background: var(--c0); }} .c1 {{ background: var(--c1); }} .c2 {{ background: var(--c2); }}
.c3 {{ background: var(--c3); }} .c4 {{ background: var(--c4); }} .c5 {{ background: var(--c5); }}
.scroll {{ overflow-x: auto; }}
table {{
  border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem;
}}
caption {{ text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: .3rem; }}
th, td {{
  text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top;
}}
tbody th {{ font-weight: 500; overflow-wrap: anywhere; }}
thead th {{ color: var(--soft); font-weight: 500; font-size: .85rem; }}
tfoot th, tfoot td {{ font-weight: 700; border-bottom: 0; }}
.n {{ text-align: right; white-space: nowrap; }}
meter {{ width: 7rem; }}
summary {{ cursor: pointer; margin-top: 2rem; }}
footer {{ margin-top: 2.5rem; font-size: .85rem; }}
@media (max-width: 40rem) {{ .wide {{ display: none; }} .narrow {{ display: block; }} }}
@media print {{ body {{ max-width: none; }} details {{ display: block; }} }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{period}</p>
</header>
<main>
{body}
</main>
<footer>Made by Tollway on {made}. Amounts are US dollars. This page holds all that it
shows: it fetches nothing and runs no script.</footer>
</body>
</html>
"""
