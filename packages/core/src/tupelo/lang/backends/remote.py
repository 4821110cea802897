"""What services have in common that take chats and tell no log-probabilities."""

from tupelo.lang.backends.base import Backend, Place
from tupelo.lang.ir import Gen, Seen, Select, Step

_SHOWN = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "sampling_seed": "seed",
    "regex": "dtype or regex",
}
"""Options as programs call them."""


class RemoteBackend(Backend):
    """A service: programs are traced first, and what it cannot do is refused then.

    Attributes:
        options: names of sampling that it takes.
        sees: kinds of media that it takes.
        continues: it goes on with a message of the assistant that has begun.
        calls_tools: it knows tools.
    """

    traced = True
    options: frozenset[str] = frozenset()
    sees: frozenset[str] = frozenset({"image"})
    continues = False
    calls_tools = True

    def check(self, step: Step, place: Place) -> None:
        """Refuse a step that this service cannot do.

        Raises:
            UnsupportedOperation: names the service, the step and what to do instead.
        """
        match step:
            case Select():
                raise self.cannot(
                    "select()",
                    "it tells no log-probabilities of given texts; use gen(json_schema=…) with an "
                    "enum of the choices",
                )
            case Seen(media) if media.kind not in self.sees:
                raise self.cannot(f"{media.kind}()", "it takes none")
            case Gen():
                self._check_gen(step, place)

    def _check_gen(self, gen: Gen, place: Place) -> None:
        if not place.chat:
            raise self.cannot("gen() without roles", "it takes conversations: use assistant(gen())")
        if place.begun and not self.continues:
            raise self.cannot(
                "text before gen() in assistant(…)",
                "it begins the assistant's messages itself; move the text into the user's message",
            )
        if gen.tools and not self.calls_tools:
            raise self.cannot("gen(tools=…)", "it knows no tools")
        for name in gen.sampling:
            if name not in self.options:
                taken = ", ".join(sorted(_SHOWN.get(option, option) for option in self.options))
                raise self.cannot(f"gen({_SHOWN.get(name, name)}=…)", f"it takes {taken}")
