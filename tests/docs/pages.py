"""What the pages of docs/ say, for tests that hold them to it."""

import re

from tests.conftest import ROOT

DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def explained(file: str) -> list[str]:
    """The columns or keys of a file that names.md has a row for, in its order."""
    section = (DOCS / "names.md").read_text().split(f"### {file}\n")[1].split("\n#")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
