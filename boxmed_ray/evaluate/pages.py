"""Writing a page: one self-contained HTML file from a template, styled alike, whole or not at all.

What lives here: the templates' environment and the file. What does not: what a page shows (report_page.py,
evaluation_page.py, comparison_page.py), its words (templates/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxmed_ray.evaluate.cases import MCL, SVR, TRUTH
from boxmed_ray.whole_file import write_whole


def write_page(path: Path, template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> Path:
    """Fill ``template`` with ``values``, write it to ``path``, whose folder is made, and return ``path``."""
    environment = Environment(
        loader=PackageLoader("boxmed_ray.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    css = environment.get_template("report.css").render(truth=TRUTH, mcl=MCL, svr=SVR)
    page = environment.get_template(template).render(css=Markup(css), **values)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(path, page)
