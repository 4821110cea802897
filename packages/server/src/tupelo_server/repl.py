"""The conversation as a person types it: lines, ``/`` commands, replies that Ctrl-C interrupts."""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

from tupelo.errors import InvalidRequest, TupeloError
from tupelo_server.terminal import Conversation

FENCE = '"""'
"""Begins and ends a message of several lines."""

NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "seed",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)
SETTABLE = (*NUMBERS, "stop")

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Lines(Protocol):
    """Where lines come from."""

    interactive: bool
    """Whether a person types them: then mistakes do not end the conversation."""

    def read(self, prompt: str) -> str:
        """The next line.

        Raises:
            EOFError: there is none. KeyboardInterrupt: what was typed so far is not wanted.
        """
        ...


class PipedLines:
    """Lines of a file or a pipe; nothing is prompted for."""

    interactive = False

    def __init__(self, source: TextIO) -> None:
        self._source = source

    def read(self, prompt: str) -> str:
        """See ``Lines``."""
        line = self._source.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


class TypedLines:
    """Lines typed at a terminal, with editing, completion of commands, and a history.

    Args:
        history: file that keeps what was typed; None keeps it for this conversation only.

    Raises:
        OSError: the file cannot be written.
    """

    interactive = True

    def __init__(self, history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        if history is not None:
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            history.touch(mode=0o600)
        kept = InMemoryHistory() if history is None else FileHistory(str(history))
        self._session: PromptSession[str] = PromptSession(
            history=kept,
            key_bindings=keys,
            completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
            complete_while_typing=False,
        )

    def read(self, prompt: str) -> str:
        """See ``Lines``."""
        return self._session.prompt(prompt)


class Repl:
    """Reads, asks, prints, until /quit or the end of the input.

    Args:
        talk: with the model. lines: what is said. Replies go to standard output, all else to
            standard error.
    """

    def __init__(self, talk: Conversation, lines: Lines) -> None:
        self._talk = talk
        self._lines = lines
        self._out = sys.stdout
        self._notes = sys.stderr
        self._over = False

    def run(self) -> None:
        """Until the end.

        Raises:
            TupeloError: a message or a command failed, and nobody is there to try another.
        """
        while not self._over:
            try:
                self._turn(self._message())
            except EOFError:
                return
            except KeyboardInterrupt:
                self._note("/quit or Ctrl-D leaves")
            except TupeloError as error:
                if not self._lines.interactive:
                    raise
                self._note(f"error: {error}")

    def _message(self) -> str:
        """The next message, of several lines where it begins with a fence."""
        line = self._lines.read("> ").strip()
        if not line.startswith(FENCE):
            return line
        lines = [line.removeprefix(FENCE)]
        while not lines[-1].rstrip().endswith(FENCE):
            lines.append(self._lines.read(". "))
        lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
        return "\n".join(lines).strip("\n")

    def _turn(self, message: str) -> None:
        if message.startswith("/") and not message.startswith("//"):
            name, _, rest = message[1:].partition(" ")
            if name not in COMMANDS:
                raise InvalidRequest(
                    f"no command /{name:.40}; /help lists them, and a message that begins with a "
                    "slash is typed with two"
                )
            COMMANDS[name][1](self, rest.strip())
        elif message:
            self._say(message.removeprefix("/") if message.startswith("//") else message)

    def _say(self, message: str) -> None:
        """Print the reply as it comes; Ctrl-C stops it, and what there is of it stays."""
        stopped = False
        try:
            with contextlib.closing(self._talk.ask(message)) as pieces:
                for piece in pieces:
                    if not piece.thought:
                        self._out.write(piece.text)
                        self._out.flush()
                    elif self._lines.interactive:
                        self._notes.write(f"{_DIM}{piece.text}{_PLAIN}")
                        self._notes.flush()
        except KeyboardInterrupt:
            stopped = True
        self._out.write("\n")
        self._out.flush()
        if stopped:
            self._note("(stopped; what was said is kept)")

    def _note(self, text: str) -> None:
        self._notes.write(text + "\n")
        self._notes.flush()

    # Commands

    def _help(self, rest: str) -> None:
        for name, (usage, _, what) in COMMANDS.items():
            self._note(f"  {f'/{name} {usage}'.rstrip():<24} {what}")
        self._note(f"  {FENCE} begins and ends a message of several lines; Alt+Enter begins a line")
        self._note("  Ctrl-C stops a reply and keeps what was said; Ctrl-D leaves")

    def _clear(self, rest: str) -> None:
        self._talk.clear()
        self._note("a new conversation")

    def _system(self, rest: str) -> None:
        if rest:
            self._talk.system = "" if rest == "none" else rest
        self._note(f"instructions: {self._talk.system or 'none'}")

    def _set(self, rest: str) -> None:
        name, _, text = rest.partition(" ")
        if name and name not in SETTABLE:
            raise InvalidRequest(f"/set {name:.40}: allowed: {', '.join(SETTABLE)}")
        if text.strip():
            self._talk.options[name] = _value(name, text.strip())
        elif name:
            self._talk.options.pop(name, None)
        shown = (name,) if name else SETTABLE
        for each in shown:
            self._note(f"  {each} {self._talk.options.get(each, 'as the server chooses')}")

    def _retry(self, rest: str) -> None:
        message = self._talk.undo()
        if message is None:
            raise InvalidRequest("/retry: nothing has been said yet")
        self._say(message)

    def _undo(self, rest: str) -> None:
        message = self._talk.undo()
        self._note("nothing to take back" if message is None else f"taken back: {message:.60}")

    def _save(self, rest: str) -> None:
        if not rest:
            raise InvalidRequest("/save: give a file; .json keeps messages, others get text")
        path = Path(rest).expanduser()
        messages = self._talk.everything()
        if path.suffix == ".json":
            text = json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n"
        else:
            text = "\n".join(f"{m['role']}:\n{m['content']}\n" for m in messages)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"/save {path}: {error.strerror}") from None
        self._note(f"{len(messages)} messages are in {path}")

    def _load(self, rest: str) -> None:
        path = Path(rest).expanduser()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["messages"]
            messages = [{"role": m["role"], "content": m["content"]} for m in found]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"/load {rest}: {error}; give a file of /save, .json") from None
        self._talk.restore(messages)
        self._note(f"{len(messages)} messages")

    def _quit(self, rest: str) -> None:
        self._over = True


def _value(name: str, text: str) -> Any:
    """What is set: a number, or the text that ends a reply.

    Raises:
        InvalidRequest: not a number.
    """
    if name not in NUMBERS:
        return text
    try:
        value = float(text)
    except ValueError:
        raise InvalidRequest(f"/set {name}: got {text!r:.40}; must be a number") from None
    return int(value) if value.is_integer() and "." not in text else value


_Action = Callable[[Repl, str], None]

COMMANDS: dict[str, tuple[str, _Action, str]] = {
    "help": ("", Repl._help, "this list"),
    "clear": ("", Repl._clear, "begin anew, with the same instructions"),
    "system": ("TEXT", Repl._system, "show or change the instructions; none takes them away"),
    "set": ("NAME VALUE", Repl._set, "show or change sampling; no value: as the server chooses"),
    "retry": ("", Repl._retry, "ask the last message again"),
    "undo": ("", Repl._undo, "take the last message and its reply back"),
    "save": ("FILE", Repl._save, "write the conversation"),
    "load": ("FILE", Repl._load, "go on with a conversation that was saved as .json"),
    "quit": ("", Repl._quit, "leave"),
    "exit": ("", Repl._quit, "leave"),
}
