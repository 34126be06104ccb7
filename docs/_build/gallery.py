"""The gallery's pictures: ``python docs/_build/gallery.py``.

Runs the gallery's commands in this checkout and photographs their reports. A line on the page ::

    <!-- picture: NAME.webp REPORT.html "HEADING" -->

wants the part of the report under the heading that begins so, at most ``TALLEST`` pixels of it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from blocks import blocks
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import Browser  # noqa: E402

PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
WIDTH, TALLEST = 1000, 1200
_WANTED = re.compile(r'^<!-- picture: (\S+) (\S+) "(.+)" -->$', flags=re.M)
_WHERE = """(() => {
  const found = [...document.querySelectorAll('h2')].find(h => h.innerText.startsWith(%s));
  const section = found.closest('section') || found.parentElement;
  const top = found.getBoundingClientRect().top + scrollY;
  return [top, section.getBoundingClientRect().bottom + scrollY];
})()"""


def main() -> int:
    """Run the commands, unless told that they were; take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-runs", action="store_true", help="the reports are there already")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = _WANTED.findall(page)
    if not args.no_runs:
        for block in blocks(page):
            for line in block.lines if "runs/gallery" in block.text else ():
                subprocess.run(["sh", "-c", line], cwd=ROOT, check=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Browser() as browser, tempfile.TemporaryDirectory() as folder:
        for name, report, heading in wanted:
            browser.open(ROOT / report, width=WIDTH)
            top, bottom = browser.run(_WHERE % json.dumps(heading))
            shot = Path(folder) / "shot.png"
            browser.picture(shot, top=top - 12, height=min(bottom - top + 24, TALLEST))
            Image.open(shot).convert("RGB").save(PICTURES / name, quality=80, method=6)
            print(PICTURES / name, Image.open(PICTURES / name).size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
