"""A browser without a screen, driven as a person would use the page."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1440,900",
)  # fmt: skip
WIDE, PHONE = (1440, 900), (390, 844)


class Reader:
    """A person at the page: looks, clicks and types. JavaScript errors and requests are kept by the browser."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, address: str, size: tuple[int, int] = WIDE, dark: bool = False) -> None:
        """Load the page anew."""
        self.sit(size, dark)
        self.driver.get(address)
        self.until("document.querySelectorAll('#cells-table .tabulator-row').length > 0")

    def look(self, address: str, size: tuple[int, int] = WIDE, dark: bool = False) -> None:
        """The page as earlier tests have left it, for what they cannot have changed."""
        if self.driver.current_url == address:
            self.sit(size, dark)
        else:
            self.open(address, size, dark)

    def sit(self, size: tuple[int, int], dark: bool) -> None:
        """Before a screen of this size, with a system of these colours, and without moving pictures."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.tell("Emulation.setDeviceMetricsOverride", **metrics)
        preferences = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in preferences.items()]
        self.tell("Emulation.setEmulatedMedia", features=features)

    def tell(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def ask(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        self.driver.execute_script(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        self.ask("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        self.driver.find_element("css selector", selector).click()

    def type(self, selector: str, text: str) -> None:
        self.driver.find_element("css selector", selector).send_keys(text)

    def rows(self, table: str = "cells") -> int:
        """Rows that pass every filter, drawn or not."""
        return int(self.ask(f"tables.{table}.table.getDataCount('active')"))

    def column(self, field: str, table: str = "cells") -> list[Any]:
        """The values of the drawn rows, from the top."""
        cells = f"document.querySelectorAll('#{table}-table .tabulator-cell[tabulator-field={field}]')"
        return list(self.ask(f"[...{cells}].map((cell) => cell.textContent)"))

    def complaints(self) -> list[dict[str, Any]]:
        return list(self.driver.get_log("browser"))

    def requests(self) -> list[str]:
        """The addresses that the browser has asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]
