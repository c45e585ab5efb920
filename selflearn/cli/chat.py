"""``selflearn chat``: talk to the served model, and teach it in the same place."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from selflearn.cli.completion import versions_here
from selflearn.cli.output import message
from selflearn.cli.session import Session, session_of
from selflearn.errors import DaemonUnreachable, SelflearnError

HELP = """/good, /bad       rate the last answer
/fix [TEXT]       give the right answer to the last question; without TEXT, in your editor
/comment TEXT     say what you think of the last answer
/version [N]      say which version answered last; with N, ask that one from now on (selflearn: what is served)
/system [TEXT]    what the model shall keep to; without TEXT, nothing. Starts a new conversation
/reset            start a new conversation
/quit             leave (so does Ctrl-D); Ctrl-C stops an answer"""
NO_ANSWER = "There is no answer yet; ask something first."
ANSWER_SECONDS = 600.0
FAILED = 1
SERVED = "selflearn"


@dataclass(slots=True)
class Conversation:
    """What was said so far, and how the last answer is called."""

    session: Session
    model: str
    system: str | None
    limits: dict[str, Any]
    messages: list[dict[str, str]] = field(default_factory=list)
    last_id: str | None = None
    last_model: str | None = None
    finish_reason: str | None = None

    def ask(self, question: str) -> Iterator[str]:
        """Yields the answer piece by piece, and notes it in the end; one that is left before does not count."""
        pieces: list[str] = []
        asked = [*self.messages, {"role": "user", "content": question}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {"model": self.model, "stream": True, "messages": [*system, *asked], **self.limits}
        for event in _events(self.session, body):
            self.last_id, self.last_model = event["id"], event["model"]
            for choice in event["choices"]:
                self.finish_reason = choice["finish_reason"]
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                    yield piece
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def judge(self, **given: Any) -> str:
        """Sends feedback on the last answer and returns what became of it."""
        if self.last_id is None:
            return NO_ANSWER
        done = self.session.call("POST", "/v1/feedback", {"interaction_id": self.last_id, **given})
        if given["kind"] == "correction" and self.messages:
            self.messages[-1] = {"role": "assistant", "content": given["text"]}
        return f"Thank you: {done['detail']}."

    def forget(self) -> str:
        """Starts a new conversation."""
        self.messages, self.last_id = [], None
        return "A new conversation."

    @property
    def last_answer(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""


def chat(
    context: typer.Context,
    version: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Ask this one.", autocompletion=versions_here)
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model shall keep to.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="0 is always the likeliest answer.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON.")] = False,
) -> None:
    """Talk to the served model; rate and correct its answers with /good, /bad, /fix TEXT and /comment TEXT.

    From a pipe, every line is a question or such a command; exit code 1 if one of them failed.
    """
    session = session_of(context)
    session.call("GET", "/v1/models")
    limits = {"temperature": temperature, "max_tokens": max_tokens}
    given = {name: value for name, value in limits.items() if value is not None}
    conversation = Conversation(session, SERVED if version is None else f"{SERVED}@{version}", system, given)
    interactive = sys.stdin.isatty()
    if interactive:
        message(f"Ask something.\n{HELP}\n")
    failed = [line for line in _lines(interactive) if not _carry_out(conversation, line, as_json)]
    if failed and not interactive:
        raise typer.Exit(FAILED)


def _carry_out(conversation: Conversation, line: str, as_json: bool) -> bool:
    """Asks a question or follows a command; False if that failed, which is told."""
    try:
        if line.startswith("/"):
            message(_command(conversation, line))
        elif line:
            _answer(conversation, line, as_json)
    except DaemonUnreachable:
        raise
    except SelflearnError as error:
        message(f"selflearn: {error}")
        return False
    return True


def _answer(conversation: Conversation, question: str, as_json: bool) -> None:
    before = conversation.last_model
    with closing(conversation.ask(question)) as pieces:  # type: ignore[type-var]  # a generator
        try:
            for piece in pieces:
                if not as_json:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            message("\nStopped; this question and its answer are no part of the conversation.")
            return
    if as_json:
        sys.stdout.write(json.dumps(_told(conversation, question), ensure_ascii=False))
    sys.stdout.write("\n")
    sys.stdout.flush()
    if sys.stdin.isatty() and conversation.last_model != before:
        message(f"({conversation.last_model})")


def _told(conversation: Conversation, question: str) -> dict[str, Any]:
    return {
        "id": conversation.last_id,
        "model": conversation.last_model,
        "question": question,
        "answer": conversation.last_answer,
        "finish_reason": conversation.finish_reason,
    }


def _command(conversation: Conversation, line: str) -> str:
    name, _, rest = line.partition(" ")
    follow = COMMANDS.get(name)
    return f"There is no {name}.\n{HELP}" if follow is None else follow(conversation, rest.strip())


def _fix(conversation: Conversation, text: str) -> str:
    if not text and sys.stdin.isatty():
        if conversation.last_id is None:
            return NO_ANSWER
        from selflearn.cli.editor import edited

        text = edited(conversation.last_answer)
        if text == conversation.last_answer.strip():
            return "It is as it was; nothing was sent."
    return conversation.judge(kind="correction", text=text) if text else "Say it: /fix THE RIGHT ANSWER"


def _comment(conversation: Conversation, text: str) -> str:
    return conversation.judge(kind="comment", text=text) if text else "Say it: /comment WHAT YOU THINK"


def _version(conversation: Conversation, named: str) -> str:
    if not named:
        return conversation.last_model or NO_ANSWER
    if not named.isdecimal() and named != SERVED:
        return f"{named!r} is no version; say a number as 7, or {SERVED} for what is served."
    model = named if named == SERVED else f"{SERVED}@{named}"
    conversation.session.call("GET", f"/v1/models/{model}")
    conversation.model = model
    return f"From now on {model} answers."


def _system(conversation: Conversation, text: str) -> str:
    conversation.system = text or None
    return conversation.forget()


COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "/good": lambda conversation, _: conversation.judge(kind="rating", value=1.0),
    "/bad": lambda conversation, _: conversation.judge(kind="rating", value=-1.0),
    "/fix": _fix,
    "/comment": _comment,
    "/version": _version,
    "/system": _system,
    "/reset": lambda conversation, _: conversation.forget(),
    "/new": lambda conversation, _: conversation.forget(),
    "/help": lambda conversation, _: HELP,
}
LEAVE = ("/quit", "/exit")


def _lines(interactive: bool) -> Iterator[str]:
    """What is typed or piped in, line by line, up to the end or /quit."""
    if not interactive:
        source: Iterator[str] = iter(sys.stdin.readline, "")
    else:
        from selflearn.cli.editor import typed_lines

        source = typed_lines("> ", tuple(sorted([*COMMANDS, *LEAVE])))
    for line in source:
        if line.strip() in LEAVE:
            return
        yield line.strip()


def _events(session: Session, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Streams one chat; yields each event's object. Raises what went wrong, in the daemon's words."""
    with session.answered("POST", "/v1/chat/completions", body, timeout=ANSWER_SECONDS) as response:
        for line in response:
            name, _, data = line.decode().strip().partition(": ")
            if name != "data" or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise SelflearnError(str(event["error"]["message"]))
            yield event
