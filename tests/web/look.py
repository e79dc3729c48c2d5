"""The browser's half of `make web`, in an environment that has playwright and nothing of segpipe.

Reads what to open as JSON on stdin, and writes what it saw as JSON on stdout; masks and pictures go into files.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Page, Playwright, sync_playwright

_ARGS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_GPU_ARGS = (*_ARGS, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
"""A processor plays the GPU, where this Chromium brings what it takes."""
_PATIENCE_MS = 60_000
_GPU_PICTURES = 2  # compiling for each takes long on a processor
_FINAL = re.compile(" ms |could not|is no ")  # what the page says in the end, good or bad
_MS = re.compile(r"([\d.]+) ms ")
_WATCH = """() => {
  window.blockedMs = 0;
  const watch = new PerformanceObserver((seen) => {
    for (const {duration} of seen.getEntries()) window.blockedMs = Math.max(window.blockedMs, duration);
  });
  watch.observe({type: "longtask"});
}"""  # how long the page's own thread was not there for the person
_SIZES = ({"width": 1440, "height": 900}, {"width": 375, "height": 812})


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """Each page as a person would use it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=wanted["chromium"], args=_ARGS)
        found = {}
        for name, url in wanted["pages"].items():
            out = Path(wanted["out"], name)
            out.mkdir(parents=True, exist_ok=True)
            page, heard = _listened(browser.new_page(viewport=_SIZES[0]))
            found[name] = {**_used(page, url, wanted, out), **heard}
            page.close()
            page, _ = _listened(browser.new_context(bypass_csp=True).new_page())  # or axe could not be put in
            found[name] |= _shown(page, url, wanted, out)
            page.close()
        browser.close()
        found["gpu"] = _on_gpu(playwright, wanted)
    return found


def _on_gpu(playwright: Playwright, wanted: dict[str, Any]) -> dict[str, Any]:
    """Masks by WebGPU; and the device of a page whose code for the GPU does not run. `why_not` where there is none."""
    out = Path(wanted["out"], "gpu")
    out.mkdir(parents=True, exist_ok=True)
    try:
        browser = playwright.chromium.launch(executable_path=wanted["chromium"], args=_GPU_ARGS)
    except Error as error:
        return {"why_not": error.message.splitlines()[0]}
    try:
        page = browser.new_page()
        _opened(page, wanted["pages"]["file"], wanted)
        if page.is_hidden("#device-row"):
            return {"why_not": "this Chromium has no WebGPU"}
        masks = []
        for path in wanted["pictures"][:_GPU_PICTURES]:
            said = _segmented(page, path)
            if not said.endswith("on the GPU."):
                return {"why_not": said}
            masks.append(_saved(page, out))
        _opened(page, _broken(Path(wanted["pages"]["file"].removeprefix("file://")), out), wanted)
        return {"masks": masks, "status": [said], "fell_back_to": page.input_value("#device")}
    except Error as error:  # a browser that cannot do it is no fault of the page's
        return {"why_not": error.message.splitlines()[0]}
    finally:
        browser.close()


def _broken(page: Path, out: Path) -> str:
    """The address of a copy whose runtime for the GPU is none."""
    text = re.sub(r'(id="webgpu-binary"[^>]*>)[^<]*', r"\g<1>AAAA", page.read_text())
    copy = out / "broken.html"
    copy.write_text(text)
    return copy.resolve().as_uri()


def _saved(page: Page, out: Path) -> str:
    """The mask's file name there."""
    with page.expect_download() as download:
        page.click("#save-mask")
    name = download.value.suggested_filename
    download.value.save_as(out / name)
    return name


def _listened(page: Page) -> tuple[Page, dict[str, list[str]]]:
    """A page, and what it says on its console and asks of the network."""
    heard: dict[str, list[str]] = {"console": [], "requests": []}
    page.on("console", lambda message: heard["console"].append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard["console"].append(f"error: {error}"))
    page.on("request", lambda request: heard["requests"].append(f"{request.method} {request.url.partition('?')[0]}"))
    return page, heard


def _opened(page: Page, url: str, wanted: dict[str, Any]) -> float:
    """Seconds until it is ready; a page that asks for a token gets it."""
    started = time.monotonic()
    page.goto(url)
    page.wait_for_selector("html:not([data-state=opening])", timeout=_PATIENCE_MS)
    if page.is_visible("#token"):
        page.fill("#token", wanted["token"])
        page.press("#token", "Tab")
    page.wait_for_selector("html[data-state=ready]", timeout=_PATIENCE_MS)
    return round(time.monotonic() - started, 2)


def _segmented(page: Page, path: str) -> str:
    page.set_input_files("#file", path)
    page.locator("#status", has_text=_FINAL).filter(has_text=Path(path).name).wait_for(timeout=_PATIENCE_MS)
    return page.inner_text("#status")


def _used(page: Page, url: str, wanted: dict[str, Any], out: Path) -> dict[str, Any]:
    """Pictures and their masks, a file that is none, a video, the webcam, and the keyboard."""
    seen: dict[str, Any] = {"ready_s": _opened(page, url, wanted), "status": [], "masks": []}
    for path in wanted["pictures"]:
        seen["status"].append(_segmented(page, path))
        if "could not" in seen["status"][-1]:
            sys.exit(f"{url}: {seen['status'][-1]}")
        seen["masks"].append(_saved(page, out))
    page.evaluate(_WATCH)
    seen["large"] = _segmented(page, wanted["large"])
    seen["large_ms"], seen["blocked_ms"] = float(_MS.findall(seen["large"])[0]), page.evaluate("window.blockedMs")
    seen["description"] = page.get_attribute("#view", "aria-label")
    page.focus("#view")
    page.keyboard.press("ArrowRight")
    seen["pixel"] = page.inner_text("#pixel")
    page.focus("#legend button")
    page.keyboard.press("Enter")
    seen["pressed"] = page.get_attribute("#legend button", "aria-pressed")
    page.set_input_files("#file", [{"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}])
    page.locator("#status", has_text="bad.png").wait_for(timeout=_PATIENCE_MS)
    seen["bad"] = page.inner_text("#status")
    seen["video"] = _segmented(page, wanted["video"])
    page.click("#webcam")
    page.locator("#status", has_text="Webcam: ").wait_for(timeout=_PATIENCE_MS)
    seen["webcam"] = page.inner_text("#status")
    page.click("#stop")
    return seen


def _shown(page: Page, url: str, wanted: dict[str, Any], out: Path) -> dict[str, Any]:
    """Pictures at two widths in both schemes, with what axe-core finds and how wide the page wants to be."""
    page.set_viewport_size(_SIZES[0])
    _opened(page, url, wanted)
    _segmented(page, wanted["pictures"][-1])
    page.add_script_tag(path=wanted["axe"])
    violations, too_wide = [], []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for size in _SIZES:
            page.set_viewport_size(size)
            page.screenshot(path=out / f"{scheme}-{size['width']}.png", full_page=True)
            found = page.evaluate("axe.run().then(found => found.violations.map(v => `${v.id}: ${v.nodes[0].html}`))")
            violations += [f"{scheme} {size['width']}: {what}" for what in found]
            needed = page.evaluate("document.documentElement.scrollWidth")
            too_wide += [f"{scheme} {size['width']}: {needed}"] if needed > size["width"] else []
    return {"axe": violations, "too_wide": too_wide}


if __name__ == "__main__":
    json.dump(look(json.load(sys.stdin)), sys.stdout)
