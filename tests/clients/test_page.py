"""The web page in a real Chromium, against a real server with the embedded model."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.constants import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
COFFEE = ROOT / "examples" / "coffee.jpg"
WAIT_MS = 30_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def url(protocols_url: str) -> str:
    """The address of a server with the embedded model."""
    return protocols_url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, on a phone; the test fails if it violates its content security policy or a script fails."""
    context = browser.new_context(viewport={"width": 360, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if "Content Security" in message.text else None)
    requested: set[str] = set()
    page.on("request", lambda request: requested.add(request.url))
    page.goto(url)
    yield page
    assert failures == []
    assert {address for address in requested if not address.startswith((url, "blob:", "data:"))} == set()
    context.close()


def choose(page: Page, *paths: Path) -> None:
    page.set_input_files("#files", [str(path) for path in paths])


def test_the_page_says_what_can_be_recognized(page: Page) -> None:
    expect(page.locator("#about")).to_contain_text("200 classes")
    expect(page.locator("#demonstration")).to_contain_text("CONVNEXT_MODEL=convnext_tiny")
    page.get_by_text("All classes").click()
    expect(page.locator("#labels")).to_contain_text("espresso")


def test_a_sample_is_classified_by_keyboard(page: Page) -> None:
    page.get_by_role("button", name="A cup of coffee").press("Enter")
    expect(page.get_by_role("rowheader").first).to_have_text("espresso")
    expect(page.locator("article .timing")).to_contain_text("inference")


def test_several_photos_are_classified_with_progress(page: Page, photo_path: Path) -> None:
    choose(page, COFFEE, photo_path, COFFEE, photo_path, COFFEE)
    expect(page.get_by_role("table", name="Most probable classes")).to_have_count(5)
    expect(page.locator("#progress")).to_have_text("5 of 5 photos processed")
    for card in page.get_by_role("article").all():
        is_coffee = card.get_by_role("heading").text_content() == "coffee.jpg"
        assert (card.get_by_role("rowheader").first.text_content() == "espresso") == is_coffee


def test_the_activation_map_can_be_shown_and_hidden(page: Page) -> None:
    choose(page, COFFEE)
    image = page.locator("article img")
    photo = image.get_attribute("src")
    show = page.get_by_role("button", name="Show where the photo looks like espresso")
    show.click()
    expect(image).not_to_have_attribute("src", photo or "")
    expect(show).to_have_attribute("aria-pressed", "true")
    show.click()
    expect(image).to_have_attribute("src", photo or "")


def test_the_request_can_be_copied_as_curl(page: Page, url: str) -> None:
    choose(page, COFFEE)
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f'curl -F "file=@coffee.jpg" "{url}/predict"'


def test_a_file_that_is_no_image_gets_the_message_of_the_service(page: Page, tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("words")
    choose(page, tmp_path / "words.jpg")
    expect(page.locator(".state.error")).to_contain_text("Unsupported media type")


def test_a_busy_service_is_asked_again(page: Page) -> None:
    problem = {"type": "overloaded", "title": "Overloaded", "status": 503, "detail": "Full."}
    answers = iter([True])

    def once_busy(route: Route) -> None:
        if next(answers, False):
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            route.fulfill(status=503, headers=headers, body=json.dumps(problem))
        else:
            route.continue_()

    page.route("**/predict", once_busy)
    choose(page, COFFEE)
    expect(page.locator(".state")).to_contain_text("busy")
    expect(page.get_by_role("rowheader").first).to_have_text("espresso")


@pytest.mark.parametrize("status", [200, 401, 502])
def test_the_html_of_a_proxy_is_not_shown(page: Page, status: int) -> None:
    page.route("**/predict", lambda route: route.fulfill(status=status, content_type="text/html", body="<h1>Proxy"))
    choose(page, COFFEE)
    expect(page.locator(".state.error")).to_have_text(re.compile(f"proxy .* {status}"))
    expect(page.locator("#key")).to_be_hidden()


def test_a_photo_may_be_dropped_anywhere_or_pasted(page: Page) -> None:
    script = """async ([type, property]) => {
        const blob = await (await fetch("static/samples/coffee.jpg")).blob();
        const data = new DataTransfer();
        data.items.add(new File([blob], "coffee.jpg", { type: "image/jpeg" }));
        const Event = type === "paste" ? ClipboardEvent : DragEvent;
        document.body.dispatchEvent(new Event(type, { [property]: data, bubbles: true, cancelable: true }));
    }"""
    for number, argument in enumerate((["drop", "dataTransfer"], ["paste", "clipboardData"]), 1):
        page.evaluate(script, argument)
        expect(page.get_by_role("table", name="Most probable classes")).to_have_count(number)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barriers(page: Page, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    choose(page, COFFEE)
    expect(page.get_by_role("table", name="Most probable classes")).to_be_visible()
    page.get_by_text("All classes").click()
    violations = Axe().run(page).response["violations"]
    assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in violations] == []


def test_a_key_is_asked_for_once_and_kept(page: Page) -> None:
    problem = {"type": "unauthorized", "title": "Unauthorized", "status": 401, "detail": "No key."}

    def check_key(route: Route) -> None:
        if route.request.headers.get("x-api-key") == "secret":
            route.continue_()
        else:
            route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))

    page.route(re.compile("/(predict|model|model/labels)$"), check_key)
    choose(page, COFFEE)
    page.get_by_label("This service needs an API key").fill("secret")
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_role("rowheader").first).to_have_text("espresso")
    page.reload()
    expect(page.locator("#about")).to_contain_text("200 classes")
    expect(page.locator("#demonstration")).to_contain_text("CONVNEXT_MODEL=convnext_tiny")


@pytest.mark.parametrize("path", ["", "docs"])
def test_pages_work_without_other_hosts(page: Page, url: str, path: str) -> None:
    page.goto(f"{url}/{path}")
    expect(page.locator("h1, h2").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth") or path == "docs"
