"""``selflearn chat``: talk to the served model, and teach it in the same place."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from selflearn.cli.output import message
from selflearn.cli.session import CONNECT_SECONDS, Session, session_of
from selflearn.errors import DaemonUnreachable, SelflearnError

HELP = """/good, /bad       rate the last answer
/fix TEXT         give the right answer to the last question
/comment TEXT     say what you think of the last answer
/version          say which version answered last
/new              start a new conversation
/quit             leave (so does Ctrl-D)"""
ANSWER_SECONDS = 600.0


@dataclass(slots=True)
class Conversation:
    """What was said so far, and how the last answer is called."""

    session: Session
    temperature: float | None
    max_tokens: int | None
    messages: list[dict[str, str]] = field(default_factory=list)
    last_id: str | None = None
    last_model: str | None = None

    def ask(self, question: str) -> Iterator[str]:
        """Yields the answer piece by piece, and notes it in the end."""
        pieces: list[str] = []
        asked = [*self.messages, {"role": "user", "content": question}]
        body: dict[str, Any] = {"model": "selflearn", "stream": True, "messages": asked}
        limits = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        body |= {name: value for name, value in limits.items() if value is not None}
        for event in _events(self.session, body):
            self.last_id, self.last_model = event["id"], event["model"]
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    pieces.append(piece)
                    yield piece
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def judge(self, **given: Any) -> str:
        """Sends feedback on the last answer and returns what became of it."""
        if self.last_id is None:
            return "There is no answer yet; ask something first."
        done = self.session.call("POST", "/v1/feedback", {"interaction_id": self.last_id, **given})
        if given["kind"] == "correction":
            self.messages[-1] = {"role": "assistant", "content": given["text"]}
        return f"Thank you: {done['detail']}."

    def forget(self) -> str:
        """Starts a new conversation."""
        self.messages, self.last_id = [], None
        return "A new conversation."


def chat(
    context: typer.Context,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="0 is always the likeliest answer.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
) -> None:
    """Talk to the served model; rate and correct its answers with /good, /bad, /fix TEXT and /comment TEXT."""
    session = session_of(context)
    session.call("GET", "/v1/models")
    conversation = Conversation(session, temperature, max_tokens)
    interactive = sys.stdin.isatty()
    if interactive:
        message(f"Ask something.\n{HELP}\n")
    for line in _lines(interactive):
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                message(_command(conversation, line))
            elif line:
                for piece in conversation.ask(line):
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                sys.stdout.write("\n")
        except DaemonUnreachable:
            raise
        except SelflearnError as error:
            message(f"selflearn: {error}")


def _command(conversation: Conversation, line: str) -> str:
    name, _, rest = line.partition(" ")
    if name == "/good":
        return conversation.judge(kind="rating", value=1.0)
    if name == "/bad":
        return conversation.judge(kind="rating", value=-1.0)
    if name == "/fix":
        return conversation.judge(kind="correction", text=rest) if rest.strip() else "Say it: /fix THE RIGHT ANSWER"
    if name == "/comment":
        return conversation.judge(kind="comment", text=rest) if rest.strip() else "Say it: /comment WHAT YOU THINK"
    if name == "/version":
        return conversation.last_model or "There is no answer yet; ask something first."
    return conversation.forget() if name == "/new" else HELP


def _lines(interactive: bool) -> Iterator[str]:
    while True:
        try:
            yield (input("> ") if interactive else _next_line()).strip()
        except EOFError:
            return


def _next_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _events(session: Session, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Streams one chat; yields each event's object. Raises what went wrong, in the daemon's words."""
    import httpx

    limits = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.Client(timeout=limits, trust_env=False, headers=session.headers, verify=session.trusted) as client,
            client.stream("POST", f"{session.url}/v1/chat/completions", json=body) as response,
        ):
            if not response.is_success:
                response.read()
                raise SelflearnError(str(response.json()["error"]["message"]))
            for line in response.iter_lines():
                name, _, data = line.partition(": ")
                if name != "data" or data == "[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise SelflearnError(str(event["error"]["message"]))
                yield event
    except (httpx.TransportError, ValueError, KeyError) as error:
        raise DaemonUnreachable(
            f"The daemon at {session.url} broke off: {error}. See its log; is it running?"
        ) from error
