"""Draw the picture of the demo in the README, from today's page in Chromium.

hf-rnn train data/tweets out/tweets
python scripts/draw_demo.py out/tweets .github/demo.png
"""

from __future__ import annotations

import argparse
import os
import shutil

TEXT = "best concert of my life, but the train home was late again!"


def draw(url: str, target: str) -> None:
    """Type a text into the page, wait for the coloured words, and save what the window shows."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1200,640",
    ):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(url)
        wait = WebDriverWait(browser, 60)
        wait.until(lambda page: page.find_elements(By.TAG_NAME, "textarea"))[0].send_keys(TEXT)
        browser.find_element(By.CSS_SELECTOR, "button.primary").click()
        wait.until(lambda page: "late" in page.find_element(By.ID, "words").text)
        browser.save_screenshot(target)
    finally:
        browser.quit()


def main() -> None:
    """Serve the page of a model and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="finished folder")
    parser.add_argument("target", nargs="?", default=".github/demo.png", help="the picture")
    arguments = parser.parse_args()
    from hf_rnn.inference.demo import build, serve

    draw(serve(build(arguments.model)), arguments.target)
    print(f"{arguments.target}: {os.path.getsize(arguments.target):,} bytes", flush=True)
    os._exit(0)  # at once, although threads serve the page


if __name__ == "__main__":
    main()
