"""The server's page of what can be asked of it. MONAI Label's own loads programs from other sites."""

from collections.abc import Mapping
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
td {{ border-top: 1px solid #ccc; padding: .3rem .8rem .3rem 0; vertical-align: top; }}
code {{ overflow-wrap: anywhere; }}
</style></head>
<body><h1>{title}</h1>
<p>Connect 3D Slicer (module MONAI Label) to this address. The same list for programs:
<a href="/openapi.json">openapi.json</a>.</p>
<table>{rows}</table></body></html>
"""


def overview(schema: Mapping[str, Any]) -> str:
    """An HTML page that loads nothing, with a line for each path and method of an OpenAPI schema."""
    rows = [
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(what.get('summary', ''))}</td></tr>"
        for path, methods in sorted(schema["paths"].items())
        for method, what in methods.items()
    ]
    return _PAGE.format(title=escape(schema["info"]["title"]), rows="\n".join(rows))
