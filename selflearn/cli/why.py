"""``selflearn why``: how an update came to be and what followed, or what came of an interaction.

The first screen says what a tired person needs; ``--full`` adds the tables, ``--json`` everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from selflearn.cli.output import DASH, Cell, message, moment, pairs, show, table, text_of, verdict_table
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

_INTERACTION: Final = re.compile(r"(chatcmpl-|cmpl-|resp_)[A-Za-z0-9_-]{1,200}")
_SETTINGS: Final = 6  # so many changed settings are named on the first screen
_WORDS: Final = 60  # characters of a text in a line


def why(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="N|INTERACTION", help="Number of an update, or the id of an answer (chatcmpl-…).")
    ],
    full: Annotated[bool, typer.Option("--full", help="All tables: examples, checks, answers, rollouts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell the whole story of update N: what started it, what it learned from, what the gate found, what followed.

    Or tell what came of an interaction, and whether the version that is served has learned from it.
    """
    session = session_of(context)
    if names_interaction(subject):
        show(_interaction(session, subject), as_json, _print_interaction)
        return
    if not subject.isdecimal() or not 0 < len(subject) <= 15 or int(subject) < 1:
        raise typer.BadParameter(f"{subject!r} is neither the number of an update nor the id of an answer (chatcmpl-…)")
    found = _update(session, int(subject))
    show(found, as_json, lambda story: print_story(story, full))


def names_interaction(text: str) -> bool:
    """Whether a text looks like the id of a chat, a completion or a response."""
    return _INTERACTION.fullmatch(text) is not None


def _update(session: Session, number: int) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import why as tell

        return tell(store, session.settings.state, number)

    return session.either(lambda: session.call("GET", f"/admin/why/{number}"), local)


def _interaction(session: Session, interaction_id: str) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import why_interaction

        return why_interaction(store, session.learner, interaction_id)

    return session.either(lambda: session.call("GET", f"/admin/why/interactions/{interaction_id}"), local)


# An update


def print_story(story: Mapping[str, Any], full: bool) -> None:
    """The summary; with ``full`` every table behind it."""
    pairs([*_origin(story), *_material(story), *_judgement(story), *_outcome(story)])
    if not full:
        message("More: --full for the tables, --json for everything.")
        return
    _print_examples(story)
    verdict_table(story["verdict"])
    _print_scales(story["scale"]["tried"])
    _print_answers(story["answers"])
    _print_after(story)


def version_or_base(number: int) -> str:
    """``base`` for 0, ``v000007`` for 7."""
    return f"v{number:06d}" if number else "base"


def _origin(story: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    changed = [f"{one['setting']} = {text_of(one['value'])}" for one in story["changed_settings"]]
    more = f" and {len(changed) - _SETTINGS} more" if len(changed) > _SETTINGS else ""
    started = str(story["trigger"])
    if story["rebuild_of"] is not None:
        started += f" (update {story['rebuild_of']} again, without what was forgotten)"
    return [
        ("update", f"{story['update']} ({story['outcome']})"),
        ("reason", story["reason"]),
        ("started by", started),
        ("made from", version_or_base(story["parent"])),
        ("when", f"{moment(story['started_at'])} to {moment(story['finished_at'])}"),
        ("settings", ", ".join(changed[:_SETTINGS]) + more if changed else "the defaults"),
    ]


def _material(story: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    examples, came = story["examples"], story["came_in"]
    lines: list[tuple[str, Cell]] = [("learned from", _described(examples["train"]))]
    if examples["replay"]["count"]:
        lines.append(("replayed", _described(examples["replay"])))
    judges = f"{examples['holdout']['count']} new examples, {examples['retained']['count']} earlier ones"
    lines.append(("judged on", judges))
    unused = {**story["left_out"]["reasons"]}
    if unused:
        lines.append(("left out", _counts(unused)))
    found = f"{came['examples']} new, {came['used']} used" + "".join(
        f", {text}"
        for text in (
            f"{sum(came['quarantined'].values())} in quarantine ({_counts(came['quarantined'])})"
            if came["quarantined"]
            else "",
            f"{came['waiting']} without a place" if came["waiting"] else "",
            f"{came['forgotten']} forgotten since" if came["forgotten"] else "",
        )
        if text
    )
    return [*lines, ("of what came in", found)]


def _described(role: Mapping[str, Any]) -> str:
    forgotten = f"; {role['forgotten']} forgotten since" if role["forgotten"] else ""
    return f"{role['count']} examples ({_counts(role['kinds'])}) from {_counts(role['sources'])}{forgotten}"


def _judgement(story: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    lines: list[tuple[str, Cell]] = []
    curve, kept = story["curve"], story["scale"]["kept"]
    if curve["train"]:
        lines.append(("training loss", _curve_line(curve)))
    if kept != 1.0 or len(story["scale"]["tried"]) > 1:
        lines.append(("scale", f"{kept:.4g} of the trained change, {len(story['scale']['tried'])} tried"))
    verdict = story["verdict"]
    if verdict is not None:
        checks = verdict.get("checks", [])
        passed = sum(check.get("outcome") == "pass" for check in checks)
        lines.append(("gate", f"{verdict['outcome']}: {passed} of {len(checks)} checks passed"))
        lines += [
            (f"  {check['name']}", f"{check.get('outcome')}: {check.get('detail') or DASH}")
            for check in checks
            if check.get("outcome") != "pass"
        ]
    return lines


def _curve_line(curve: Mapping[str, Any]) -> str:
    told = f"{curve['train'][0][1]:.3g} → {curve['train'][-1][1]:.3g} in {len(curve['train'])} steps"
    if curve["held_out"]:
        losses = f"{curve['held_out'][0][1]:.3g} → {curve['held_out'][-1][1]:.3g}"
        told += f"; held out {losses}, best at step {curve['best_step']}"
    return told


def _outcome(story: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    after = story["after"]
    by = after["promoted_by"]
    if by is None:
        return [("served", "never")]
    forced = ", forced against the gate" if by["forced"] else ""
    lines: list[tuple[str, Cell]] = [
        ("promoted by", f"{by['actor']}{forced}, {moment(by['at'])}: {by['reason']}"),
        ("served", "; ".join(_period(period) for period in after["served"])),
        ("while it served", _traffic(after["traffic"])),
        (f"before ({version_or_base(after['before']['version'])})", _traffic(after["before"])),
    ]
    for alarm in after["alarms"]:
        done = alarm["detail"].get("reason", alarm["action"])
        lines += [("alarm", f"{moment(alarm['created_at'])} {alarm['signal']}, {alarm['action']}: {done}")]
    if (end := after["ended_by"]) is not None:
        to = version_or_base(end["to"])
        lines.append(("taken off", f"{end['action']} to {to} by {end['actor']}, {moment(end['at'])}: {end['reason']}"))
    return [*lines, *_today(story)]


def _today(story: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    after, version = story["after"], story["version"]
    lines: list[tuple[str, Cell]] = []
    if (removed := after["removed"]) is not None:
        lines.append(("files", f"removed {moment(removed['at'])} ({removed['because']})"))
    elif version is not None:
        lines.append(("files", "intact" if version["intact"] else f"damaged: {version['problem']}"))
    if after["descendants"]:
        lines.append(("continued by", ", ".join(map(version_or_base, after["descendants"]))))
    if story["answers"]:
        changed = sum(row["before"] != row["after"] for row in story["answers"])
        lines.append(("answers", f"{changed} of {len(story['answers'])} shown ones changed (--full shows them)"))
    return lines


def _period(period: Mapping[str, Any]) -> str:
    end = "now" if period["until"] is None else moment(period["until"])
    share = "" if period["share"] is None else f" (canary, {period['share']:.4g} of the conversations)"
    return f"{moment(period['from'])} to {end}{share}"


def _traffic(found: Mapping[str, Any]) -> str:
    told = f"{found['answers'].get('completed', 0)} answers"
    if others := {state: n for state, n in found["answers"].items() if state != "completed"}:
        told += f" ({_counts(others)})"
    if found["negative_share"] is not None:
        told += f", {found['negative']} with negative feedback ({found['negative_share']:.1%})"
    return told


def _print_examples(story: Mapping[str, Any]) -> None:
    roles = [
        (role, found["count"], _counts(found["kinds"]), _counts(found["sources"]))
        for role, found in story["examples"].items()
    ]
    table(("examples", "count", "kinds", "from"), roles)
    words = [
        (role, row["id"], _short(row["question"]), _short(row["target"]))
        for role, found in story["examples"].items()
        for row in found["words"]
    ]
    table(("role", "example", "question", "answer"), words, empty="Nothing is left of their words.")
    items = story["left_out"]["items"]
    rows = [(row["id"], row["role"], row["reason"], row.get("detail")) for row in items]
    table(("left out", "was to", "reason", "detail"), rows, empty="Nothing was left out.")


def _print_scales(tried: Sequence[Mapping[str, Any]]) -> None:
    if tried:
        rows = [(one["scale"], one["outcome"], _failed(one.get("checks", ()))) for one in tried]
        table(("scale", "outcome", "not passed"), rows)


def _failed(checks: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(str(check["name"]) for check in checks if check.get("outcome") != "pass")


def _print_answers(answers: Sequence[Mapping[str, Any]]) -> None:
    """What it learned: the same questions before and after, none of which it trained on."""
    for row in answers:
        pairs(
            [
                ("question", _last(row["prompt"])),
                ("right", row["expected"]),
                ("before", row["before"]),
                ("after", "the same" if row["after"] == row["before"] else row["after"]),
            ]
        )


def _last(prompt: object) -> str:
    if not isinstance(prompt, list):
        return str(prompt)
    return str(prompt[-1].get("content", "")) if prompt and isinstance(prompt[-1], dict) else ""


def _print_after(story: Mapping[str, Any]) -> None:
    rollouts = [
        (moment(row["created_at"]), row["action"], row["from"], row["version"], row["actor"], row["reason"])
        for row in story["rollouts"]
    ]
    table(("rollouts", "action", "from", "to", "by", "reason"), rollouts, empty="It was never put into service.")
    children = [(row["update"], row["outcome"]) for row in story["after"]["children"]]
    table(("made from it", "outcome"), children, empty="No update continued it.")


# An interaction


def _print_interaction(found: Mapping[str, Any]) -> None:
    asked, served = found["interaction"], found["served"]
    pairs(
        [
            ("interaction", asked["id"]),
            ("when", moment(asked["created_at"])),
            ("answered by", version_or_base(asked["version"])),
            ("question", _short(_last(asked["messages"]))),
            ("answer", _short(asked["answer"] or DASH)),
            ("learned", f"yes: {served['because']}" if served["learned"] else f"not yet: {served['because']}"),
        ]
    )
    feedback = [
        (row["kind"], row["value"], row["source"], row["status"], _short(row["text"] or ""))
        for row in found["feedback"]
    ]
    table(("feedback", "value", "from", "status", "text"), feedback, empty="Nobody said anything about it.")
    if found["examples"]:
        rows = [(row["id"], row["objective"], row["state"], _uses(row["updates"])) for row in found["examples"]]
        table(("example", "objective", "state", "in updates"), rows)


def _uses(updates: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{use['update']} {use['role']} ({use['outcome']})" for use in updates)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "nothing"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WORDS else line[: _WORDS - 1] + "…"
