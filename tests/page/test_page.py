"""The page in a real browser, on one daemon: what its people do, and what must not happen to them.

The tests follow each other as a day would: the daemon learns, an operator looks, goes back and forth, people talk and
correct, and somebody's words are forgotten.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.daemons import until
from tests.page.conftest import Keyed, Open

ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&lt;b&gt;'


def say(page: Page, text: str, answers: int = 1) -> None:
    """Sends a message and waits for its answers to be whole."""
    before = page.locator("article.answer").count()
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("article.answer")).to_have_count(before + answers)
    expect(page.locator("article.answer[aria-busy]")).to_have_count(0)


def show(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def answer_dialog(page: Page, action: str) -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=action, exact=True).click()
    expect(dialog).to_have_count(0)


def be_brief(page: Page) -> None:
    page.get_by_text("Options").click()
    page.get_by_label("Longest answer").fill("8")


def last_feedback(keyed: Keyed) -> dict[str, object]:
    found: dict[str, object] = keyed.daemon.get("/admin/feedback?limit=1")["feedback"][0]
    return found


def test_a_wrong_key_is_told_and_the_right_one_is_kept_in_this_tab_alone(keyed: Keyed, open_page: Open) -> None:
    page = open_page(None, refusals=(401,))
    dialog = page.get_by_role("dialog", name="A key is needed")
    for wrong in ("sl-wrong", "schlüssel"):
        dialog.get_by_label("Key").fill(wrong)
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_role("alert")).not_to_be_empty()
        expect(page.get_by_role("tab", name="Learning")).to_be_hidden()
    dialog.get_by_label("Key").fill(keyed.keys["operator"])
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.locator("#serving")).to_have_text("base model answers")
    expect(page.get_by_role("tab", name="Learning")).to_be_visible()
    assert page.evaluate("Object.values(sessionStorage)") == [keyed.keys["operator"]]
    assert page.evaluate("Object.values(localStorage)") == []
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("dialog", name="A key is needed")).to_be_visible()
    assert page.evaluate("Object.values(sessionStorage)") == []


def test_learn_and_see_why(keyed: Keyed, open_page: Open) -> None:
    page = open_page("operator", refusals=(409,))
    show(page, "Learning")
    expect(page.locator("#panel-learning .lead")).to_contain_text("learning.enabled is false")
    page.get_by_role("button", name="Learn now").click()
    expect(page.get_by_role("alert")).to_contain_text("Not enough examples")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert keyed.daemon.get("/admin/learn")["paused"] is True
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    keyed.daemon.teach("harbour")
    page.get_by_role("button", name="Learn now").click()
    expect(page.locator("#panel-learning .lead")).to_contain_text("Update 1")
    page.get_by_role("button", name="Cancel the update").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
    update = keyed.daemon.await_update(1)
    assert update["state"] == "promoted", update["reason"]
    expect(page.locator("#serving")).to_have_text("version 1 answers")
    page.locator("summary", has_text="Update 1").click()
    row = page.get_by_role("row", name=re.compile("^learned"))
    expect(row).to_contain_text("passed")
    expect(row).to_contain_text("nats/token")
    expect(page.locator(".folded .chart canvas")).to_be_visible()
    expect(page.locator(".funnel li").last).to_contain_text("Trained")


def test_roll_back_and_promote_again(keyed: Keyed, open_page: Open) -> None:
    page = open_page("operator")
    show(page, "Versions")
    version = page.get_by_role("article", name="Version 1")
    expect(version.locator(".mark").first).to_have_text("served")
    expect(version.locator(".numbers")).to_contain_text("learned")
    version.get_by_text("What it learned").click()
    expect(version.get_by_role("region", name="Answers before and after")).to_contain_text("harbour")
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.get_by_role("dialog", name="Roll back to base model?")).to_contain_text("Version 1 answers now")
    page.get_by_role("dialog").get_by_label("Reason").fill(ATTACK)
    answer_dialog(page, "Roll back")
    expect(page.locator("#serving")).to_have_text("base model answers")
    assert keyed.daemon.version() == 0
    expect(page.locator("#panel-versions")).to_contain_text(ATTACK)  # in the log, as text
    assert page.evaluate("window.hacked") is None
    page.get_by_role("article", name="Version 1").get_by_role("button", name="Serve it").click()
    answer_dialog(page, "Serve it")
    expect(page.locator("#serving")).to_have_text("version 1 answers")
    assert keyed.daemon.version() == 1


def test_canary_and_pin(keyed: Keyed, open_page: Open) -> None:
    keyed.daemon.post("/admin/rollback", to=0)
    page = open_page("operator")
    show(page, "Versions")
    version = page.get_by_role("article", name="Version 1")
    version.get_by_role("button", name="Try as canary").click()
    page.get_by_label("in percent").fill("25")
    answer_dialog(page, "Start the canary")
    expect(page.locator(".trial")).to_contain_text("version 1 answers 25 % of the conversations")
    assert keyed.daemon.get("/admin/status")["canary"]["share"] == 0.25
    page.get_by_role("button", name="Serve it to everybody").click()
    answer_dialog(page, "Serve the canary to everybody")
    expect(page.locator("#serving")).to_have_text("version 1 answers")
    version.get_by_role("button", name="Hold in service").click()
    answer_dialog(page, "Hold it in service")
    expect(version.locator(".mark", has_text="held")).to_be_visible()
    version.get_by_role("button", name="Unpin").click()
    expect(version.locator(".mark", has_text="held")).to_have_count(0)
    assert keyed.daemon.get("/admin/status")["pins"] == []


def test_two_versions_side_by_side(keyed: Keyed, open_page: Open) -> None:
    page = open_page("operator")
    show(page, "Versions")
    page.get_by_label("From", exact=True).select_option("Base model")
    page.get_by_label("to", exact=True).select_option("Version 1")
    page.get_by_role("button", name="Show what differs").click()
    expect(page.get_by_role("region", name="Gate numbers")).to_contain_text("weight_drift")
    page.get_by_role("button", name="Ask both").click()
    be_brief(page)
    say(page, "harbour question 20", answers=2)
    assert page.locator(".badge").all_text_contents() == ["Base model", "Version 1"]
    page.get_by_role("button", name="Better than the other").last.click()
    expect(page.locator(".answer .said").last).not_to_be_empty()
    found = last_feedback(keyed)
    assert found["kind"] == "preference"


def test_chat_rate_and_correct(keyed: Keyed, open_page: Open) -> None:
    page = open_page("operator")
    be_brief(page)
    say(page, "who sleeps?")
    answer = page.locator("article.answer").first
    expect(answer.locator(".badge")).to_have_text("Version 1")
    expect(answer.locator(".words")).not_to_be_empty()
    answer.get_by_role("button", name="Bad answer").click()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    assert (last_feedback(keyed)["kind"], last_feedback(keyed)["value"]) == ("rating", -1)
    answer.get_by_role("button", name="Correct").click()
    answer.get_by_role("button", name="Save the correction").click()  # unchanged
    expect(page.get_by_role("alert")).to_contain_text("Change the answer first")
    page.get_by_label("The right answer").fill("the lazy dog")
    answer.get_by_role("button", name="Save the correction").click()
    expect(answer.locator("ins")).to_have_text("the lazy dog")
    found = last_feedback(keyed)
    assert (found["kind"], found["text"], found["source"]) == ("correction", "the lazy dog", "the-operator")
    say(page, "and who jumps?")
    latest = keyed.daemon.get("/admin/data/interactions?limit=1")["interactions"][0]["id"]
    told = keyed.daemon.get(f"/admin/data/interactions/{latest}")["messages"]
    assert [message["content"] for message in told] == ["who sleeps?", "the lazy dog", "and who jumps?"]


def test_clients_chat_and_teachers_teach_and_neither_sees_more(open_page: Open) -> None:
    for role, teaches in (("client", False), ("teacher", True)):
        page = open_page(role)
        be_brief(page)
        say(page, "what is the port of the daemon?")
        expect(page.get_by_role("button", name="Good answer")).to_have_count(int(teaches))
        expect(page.get_by_role("button", name="Correct")).to_have_count(int(teaches))
        expect(page.get_by_role("tab")).to_have_count(1)


def test_what_looks_like_a_script_is_text(open_page: Open) -> None:
    page = open_page("operator", refusals=(409,))
    be_brief(page)
    say(page, ATTACK)
    expect(page.locator(".question")).to_have_text(ATTACK)
    page.get_by_role("button", name="Correct").click()
    page.get_by_label("The right answer").fill(ATTACK)
    page.get_by_role("button", name="Save the correction").click()
    expect(page.locator("ins")).to_have_text(ATTACK)
    show(page, "Data")
    expect(page.locator("[data-interaction] .asked").first).to_have_text(ATTACK)
    page.get_by_text("What came of it").first.click()
    expect(page.locator(".messages dd").first).to_have_text(ATTACK)
    page.get_by_label("Show").select_option("Examples")
    expect(page.locator("[data-example] .words").first).to_have_text(ATTACK)
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_policy_stops_a_script_that_got_in_all_the_same(open_page: Open) -> None:
    page = open_page("client", said="violates the following Content Security Policy directive")
    broken = page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.hacked = 1";
          document.body.append(script);
          setTimeout(() => resolve("nothing was stopped"), 2000);
        })"""
    )
    assert broken.startswith("script-src")
    assert page.evaluate("window.hacked") is None


def test_search_quarantine_release_forget(keyed: Keyed, open_page: Open) -> None:
    page = open_page("operator")
    show(page, "Data")
    page.get_by_label("Containing").fill("who sleeps")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("[data-interaction]")).to_have_count(2)
    page.get_by_label("Show").select_option("Examples")
    row = page.locator("[data-example]", has_text="the lazy dog")
    row.get_by_role("button", name="Quarantine").click()
    answer_dialog(page, "Quarantine")
    page.get_by_label("Show").select_option("In quarantine")
    expect(page.locator("#panel-data")).to_contain_text("an operator put them there")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("operator")
    row.get_by_role("button", name="Release").click()
    answer_dialog(page, "Release it")
    expect(row).to_have_count(0)
    page.get_by_label("Forget", exact=True).select_option("What contains certain words")
    page.get_by_label("namely").fill("who sleeps?")
    page.get_by_role("button", name="Show what would go").click()
    expect(page.get_by_role("dialog")).to_contain_text("2 interactions")
    answer_dialog(page, "Cancel")
    page.get_by_role("button", name="Show what would go").click()
    answer_dialog(page, "Forget it")
    expect(page.locator(".notice", has_text="It is forgotten")).to_be_visible()
    until(lambda: not keyed.daemon.get("/admin/data/interactions?contains=who%20sleeps")["interactions"])


def test_keyboard_alone(keyed: Keyed, open_page: Open) -> None:
    page = open_page("operator")
    keys = page.keyboard

    def go_to(label: str) -> None:
        """Presses the tab key until the control of that name has the focus."""
        for _ in range(40):
            keys.press("Tab")
            name = page.evaluate(
                "(e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent)(document.activeElement)"
            )
            if name == label:
                return
        pytest.fail(f"no way leads to {label!r} by keyboard")

    go_to("Chat")
    focus = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert focus == "solid"
    keys.press("ArrowRight")
    expect(page.get_by_role("tab", name="Learning")).to_be_focused()
    expect(page.locator("#panel-learning")).to_be_visible()
    keys.press("End")
    expect(page.locator("#panel-data")).to_be_visible()
    keys.press("Home")
    go_to("Your message")
    keys.type("the quick")
    keys.press("Enter")
    expect(page.get_by_role("button", name="Good answer")).to_be_visible()
    keys.press("Shift+Tab")  # into the conversation
    go_to("Good answer")
    keys.press("Enter")
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("tab", name="Chat").focus()
    for _ in range(2):
        keys.press("ArrowRight")
    go_to("Roll back")
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Roll back", exact=True)).to_be_focused()
    assert keyed.daemon.version() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_in_both_themes(open_page: Open, theme: str) -> None:
    page = open_page("operator", width=360, theme=theme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 384) == (theme == "light")
    for tab in ("Chat", "Learning", "Versions", "Data"):
        show(page, tab)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="Dark" if theme == "light" else "Light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
