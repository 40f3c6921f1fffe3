"""Sphinx's configuration."""

from importlib.metadata import version as installed_version

project = "anyio-sio-pg"
author = "The anyio-sio-pg authors"
project_copyright = author
release = version = installed_version("anyio-sio-pg")
language = "en_GB"

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"anyio-sio-pg {release}"
highlight_language = "python"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Rooms": "Rooms"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# names of other projects, whose documentation is not fetched, and of types that stand for others
nitpick_ignore_regex = [
    ("py:(class|exc|meth)", r"(asyncio|collections\.abc|pathlib|psycopg|queue|socketio)\..*"),
    (
        "py:class",
        r"AbstractAsyncContextManager|AnyConnection|OptionValues|PQGen|RV|Rooms|TaskGroup",
    ),
    ("py:class", r"anyio_sio_pg\.(calls|manager)\.(Handler|Hook|PostgresManager)"),
]
