"""Draw the page of `hf-rnn label` as five pictures in Chromium: labels of a table, by keys.

    python scripts/draw_label.py data/tweets/train.tsv .github

The pictures are the start, new labels, a suggestion, a random text, and the accuracy.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

# after how many answers a picture is taken, and its name
PICTURES = {0: "1_start", 4: "2_labels", 25: "3_suggestion", 62: "4_random", 160: "5_accuracy"}


def open_browser(url: str) -> Any:
    """Return Chromium with a page, 1,000 points wide."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument("--window-size=1000,640")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    browser.get(url)
    return browser


def label(browser: Any, right: dict[str, str], folder: Path) -> None:
    """Answer with the right labels, by keys, and take the pictures."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def is_ready(page: Any) -> bool:
        ready = "return !busy && state && state.answers"
        return page.execute_script(ready) == number

    for number in range(max(PICTURES) + 1):
        WebDriverWait(browser, 60).until(is_ready)
        if number in PICTURES:
            browser.save_screenshot(folder / f"label_{PICTURES[number]}.png")
        name = right[browser.execute_script("return state.text")]
        names = [one["name"] for one in browser.execute_script("return state.labels")]
        known = [one for one in names if one != "no class"]
        keyboard = browser.switch_to.active_element
        if name in known:
            keyboard.send_keys(str(known.index(name) + 1))
        elif known:
            keyboard.send_keys("/")
            browser.switch_to.active_element.send_keys(name, Keys.RETURN)
        else:
            keyboard.send_keys(name, Keys.RETURN)


def main() -> None:
    """Serve the page of a table, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="texts with labels")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".github"))
    arguments = parser.parse_args()
    from hf_rnn import Labeller
    from hf_rnn.data import ColumnFlags
    from hf_rnn.data.columns import read_text_table
    from hf_rnn.desk.page import serve

    table = read_text_table(arguments.table, ColumnFlags())
    right = dict(zip(table.texts, table.labels or (), strict=True))

    def draw(line: str) -> None:
        browser = open_browser(line.split()[0])
        try:
            label(browser, right, arguments.folder)
        finally:
            browser.find_element("id", "finish").click()
            browser.quit()

    with tempfile.TemporaryDirectory() as folder:
        labeller = Labeller(list(right), output_dir=folder)
        serve(
            labeller,
            "no class",
            announce=lambda line: threading.Thread(target=draw, args=(line,)).start(),
        )


if __name__ == "__main__":
    main()
