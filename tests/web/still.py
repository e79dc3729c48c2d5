"""The browser's half of looking at pages that stand still; its environment has playwright and nothing of segpipe.

Reads what to open as JSON on stdin, and writes what it saw as JSON on stdout; photographs go into a folder a page.
"""

import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

_ARGS = ("--no-sandbox", "--disable-dev-shm-usage", "--allow-file-access-from-files")
_SIZES = ({"width": 1440, "height": 900}, {"width": 768, "height": 1024}, {"width": 375, "height": 812})
_AXE = """axe.run({resultTypes: ["violations"]}).then(found => found.violations
  .filter(v => ["serious", "critical"].includes(v.impact))
  .map(v => `${v.id}: ${v.nodes.map(n => n.html).join(" ")}`))"""
_BROKEN = "[...document.images].filter(i => !i.complete || (i.naturalWidth === 0 && i.offsetParent)).map(i => i.src)"


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """Each page in both colour schemes and at three widths."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=wanted["chromium"], args=_ARGS)
        found = {name: _shown(browser, name, url, wanted) for name, url in wanted["pages"].items()}
        browser.close()
    return found


def _shown(browser: Browser, name: str, url: str, wanted: dict[str, Any]) -> dict[str, list[str]]:
    out = Path(wanted["out"], name)
    out.mkdir(parents=True, exist_ok=True)
    seen: dict[str, list[str]] = {"axe": [], "too_wide": [], "broken": [], "console": []}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")  # a page remembers its scheme
        page.on("console", lambda message: seen["console"].append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen["console"].append(str(error)))
        for size in _SIZES:
            place = f"{scheme} {size['width']}"
            page.set_viewport_size(size)
            page.goto(url, wait_until="load")
            page.screenshot(path=out / f"{scheme}-{size['width']}.png", full_page=True)
            page.add_script_tag(path=wanted["axe"])
            seen["axe"] += [f"{place}: {what}" for what in page.evaluate(_AXE)]
            seen["broken"] += [f"{place}: {what}" for what in page.evaluate(_BROKEN)]
            needed = page.evaluate("document.documentElement.scrollWidth")
            seen["too_wide"] += [f"{place}: {needed}"] if needed > size["width"] else []
        page.close()
    return seen


if __name__ == "__main__":
    json.dump(look(json.load(sys.stdin)), sys.stdout)
