"""The fenced commands of docs/deployment.md and docs/operations.md: all are run by the walk, but those of NOT_RUN."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ["docs/deployment.md", "docs/operations.md"]

# A text that one block alone has, and why the walk cannot run that block.
NOT_RUN = {
    "python3 -m venv .venv": "installs the tools that the walk runs under; .ci/run installs the same file",
    "cargo lambda deploy": "compiles one function anew, and for arm64",
    "git pull": "changes the checkout that is tested; the pair behind it is the one that the walk deploys by",
    "git checkout the-version-before": "likewise",
    "restore-table-from-backup": "the emulator makes no system backup of a table that is deleted",
    "sort -rn": "the emulator writes no access log, and grep finds nothing",
    "REVERT_DRIFT": "the emulator's change sets have no such mode",
}

# Those that were run.
RUN = set()


def blocks():
    """All fenced commands, those of lists included."""
    for document in DOCUMENTS:
        for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```", (ROOT / document).read_text(), re.M | re.S):
            yield document, re.sub(f"^{indent}", "", block, flags=re.M)


def block(document, text):
    """The one block of a document that has this text in it. Whoever takes it runs it."""
    found = [block for of, block in blocks() if of == document and text in block]
    assert len(found) == 1, f"{document} has {len(found)} blocks with {text}"
    RUN.add((document, found[0]))
    return found[0]


def outside():
    """Blocks that nobody ran and that NOT_RUN does not name, and names that stand for no block alone, or for one that
    was run."""
    wrong = []
    for text in NOT_RUN:
        found = [one for one in blocks() if text in one[1]]
        if len(found) != 1 or found[0] in RUN:
            wrong.append(f"NOT_RUN: {text}: {len(found)}")
    for one in blocks():
        if one not in RUN and not any(text in one[1] for text in NOT_RUN):
            wrong.append(f"{one[0]}: {one[1].splitlines()[0]}")
    return wrong
