"""A real browser, headless: Chromium, driven from a thread since Selenium blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests._patience import fail_after, patient
from tests.system._proxies import program

T = TypeVar("T")

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--no-proxy-server",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser for the length of a block, with a profile of its own in an empty folder."""
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    with (folder / "chromedriver.log").open("wb") as log:
        service = ChromeService(program("chromedriver"), log_output=log)
        driver = Chrome(options, service)
        try:
            driver.set_script_timeout(patient(20))
            driver.set_page_load_timeout(patient(20))
            yield Browser(driver)
        finally:
            driver.quit()


class Browser:
    """Tabs that share their cookies, until `forget`."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self._home = driver.current_window_handle
        self._one_at_a_time = trio.StrictFIFOLock()

    async def open(self, url: str) -> Tab:
        """Open a page in another tab, which is then in front."""

        def open_tab() -> str:
            self._driver.switch_to.new_window("tab")
            self._driver.get(url)
            return self._driver.current_window_handle

        return Tab(self, await self._ask(open_tab))

    async def forget(self) -> None:
        """Close the tabs, and forget the cookies: what comes next is somebody else."""
        await self._ask(self._forget)

    def _forget(self) -> None:
        for handle in self._driver.window_handles:
            if handle != self._home:
                self._driver.switch_to.window(handle)
                self._driver.close()
        self._driver.switch_to.window(self._home)
        self._driver.execute_cdp_cmd("Network.clearBrowserCookies", {})

    async def run(self, tab: str, script: str, arguments: tuple[object, ...]) -> Any:
        def run_there() -> Any:
            if self._driver.current_window_handle != tab:
                self._driver.switch_to.window(tab)
            return self._driver.execute_script(script, *arguments)

        return await self._ask(run_there)

    async def _ask(self, work: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            return await trio.to_thread.run_sync(work)


class Tab:
    """A page in a tab; in the background, unless it was opened last."""

    def __init__(self, browser: Browser, handle: str) -> None:
        self._browser = browser
        self._handle = handle

    async def do(self, name: str, *arguments: object) -> Any:
        """Call a function of the page's; of what it promises, wait for that."""
        script = f"return window.page.{name}(...arguments)"
        return await self._browser.run(self._handle, script, arguments)

    async def state(self) -> dict[str, Any]:
        """What the page has seen."""
        state: dict[str, Any] = await self._browser.run(
            self._handle, "return window.page.state", ()
        )
        return state

    async def wait(
        self, condition: Callable[[dict[str, Any]], bool], within_s: float = 20
    ) -> dict[str, Any]:
        """Wait until the page has seen what is waited for; return all that it has seen."""
        state: dict[str, Any] = {}
        try:
            with fail_after(within_s):
                while not condition(state := await self.state()):
                    await trio.sleep(0.05)
        except trio.TooSlowError:
            raise AssertionError(f"the page has seen {state}") from None
        return state
