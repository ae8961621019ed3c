"""Writes docs/operators/<family>.md from the contracts and the families' header comments; nothing is kept twice."""

from __future__ import annotations

from pathlib import Path

from mmkernels.contract import Contract
from mmkernels.operator import OPERATORS
from mmkernels.profile import family_of

ROOT = Path(__file__).resolve().parent.parent


def header_comment(family: str) -> str:
    """The leading comment of csrc/ops/<family>.h."""
    lines = (ROOT / "csrc" / "ops" / f"{family}.h").read_text().splitlines()
    comment = []
    for line in lines:
        if not line.startswith("//"):
            break
        comment.append(line[3:])
    return "\n".join(comment)


def contracts(family: str) -> list[Contract]:
    """The family's contracts, in the order in which they are stated."""
    return [o.contract for n, o in OPERATORS.items() if family_of(n) == family]


def main() -> None:
    target = ROOT / "docs" / "operators"
    target.mkdir(exist_ok=True)
    for header in sorted((ROOT / "csrc" / "ops").glob("*.h")):
        family = header.stem
        parts = [f"# {family}\n", "```text", header_comment(family), "```\n"]
        parts += [c.markdown() for c in contracts(family)]
        (target / f"{family}.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
