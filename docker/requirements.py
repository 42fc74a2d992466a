"""Prints what the project needs, and what the extras named as arguments need, one a line.

    python requirements.py objects > requirements.txt

It lets an image install all of that before the project's code is copied, so that a changed line of
code does not install torch again. Reads the pyproject.toml of the working folder.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
needed = list(project["dependencies"])
for extra in sys.argv[1:]:
    if extra not in project["optional-dependencies"]:
        sys.exit(f"pyproject.toml has no extra {extra!r}")
    needed += project["optional-dependencies"][extra]
print(*needed, sep="\n")
