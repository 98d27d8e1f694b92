"""Settings of the site; `bash infra/docs.sh` builds it."""

project = "fdcodec"
author = copyright = "the authors of fdcodec"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "infra/docs/index"
# pages lie beside what they describe, and their links are those of the repository
include_patterns = [
    "infra/CHANGELOG.md",
    "infra/docs/*.md",
    "codec/**.md",
    "tasks/archive/archive-format.md",
    "tests/README.md",
    "tests/benchmarks/results/*.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
]
exclude_patterns = ["infra/docs/archive-format.md"]  # a link to the page of tasks/archive
suppress_warnings = ["misc.highlighting_failure"]  # mermaid, which only the repository's own pages draw
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
