"""A page that is open in a real browser: headless Chromium, driven by its own driver."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
CONTRASTS = """
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", {
  willReadFrequently: true,
});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const light = (colour) => {
  const [r, g, b] = colour.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = (node) => {
  if (node === null) return rgba(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const own = rgba(getComputedStyle(node).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, back(node.parentElement));
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text = walker.nextNode(); text; text = walker.nextNode()) {
  const node = text.parentElement;
  if (!text.data.trim() || node.closest("script, noscript, option, :disabled, .skip")) continue;
  if (!node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  const style = getComputedStyle(node);
  const [top, below] = [light(over(rgba(style.color), back(node))), light(back(node))].sort((a, b) => b - a);
  found.push([(top + 0.05) / (below + 0.05), text.data.slice(0, 40), node.className]);
}
return found;
"""
LEFT, RIGHT, ESCAPE = "\ue012", "\ue014", "\ue00c"
"""Keys, as WebDriver names them."""


def start_browser(profile):
    """Start the browser with an empty profile; skip the test where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("Chromium or its driver is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def scaled(image, shape):
    """Return an image at the size of another one."""
    small = Image.fromarray(image).resize(shape[1::-1], Image.Resampling.BOX)
    return np.asarray(small).astype(int)


class Page:
    """A page that is open in the browser."""

    def __init__(self, browser, address, *, width=1360, height=900, theme="light"):
        self.browser, self.address = browser, address
        self.resize(width, height)
        self.theme(theme)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(address)
        self.wait(lambda: self.js("return document.documentElement.dataset.ready"))

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 60, 0.02).until(lambda _: condition())

    def open(self, hash_):
        self.js("location.hash = arguments[0]", hash_)
        self.wait(lambda: self.js("return location.hash") == f"#{hash_}")
        self.js("return new Promise((done) => setTimeout(done))")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)

    def ids(self):
        return self.texts("#rows .row-id")

    def title(self):
        return self.find("#episode-title").text

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()
        self.js("return new Promise((done) => setTimeout(done))")

    def point_at(self, element):
        from selenium.webdriver.common.action_chains import ActionChains

        self.js("arguments[0].scrollIntoView({ block: 'center' })", element)
        # The event of scrolling, which hides a hint, comes with a later frame; the mouse must come after it.
        frames = "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))"
        self.js(f"return new Promise((done) => {frames})")
        ActionChains(self.browser).move_to_element(element).perform()

    def choose(self, name, text):
        from selenium.webdriver.support.ui import Select

        Select(self.find(f"#{name}")).select_by_visible_text(text)

    def resize(self, width, height, scale=1):
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def theme(self, name):
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, element):
        return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)

    def open_tokens(self, name):
        self.open(name)
        self.find("#tokens summary").click()
        self.wait(lambda: self.all("#tokens .token-model"))

    def unfold(self):
        for fold in self.all("main .fold:not([open]) summary"):
            fold.click()

    def loaded(self):
        return self.wait(lambda: self.js("return [...document.images].every((image) => image.complete)"))

    def complaints(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]
