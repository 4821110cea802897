"""A conversation of two turns, shown as it is written."""

import argparse

import tupelo as tp


@tp.function
def talk(s, first, second):
    s += tp.system("You answer in one short sentence.")
    s += tp.user(first)
    s += tp.assistant(tp.gen("first", max_tokens=40))
    s += tp.user(second)
    s += tp.assistant(tp.gen("second", max_tokens=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://localhost:30000")
    tp.set_default_backend(tp.Runtime(endpoint=parser.parse_args().endpoint))

    state = talk.run("What is the capital of France?", "And of Italy?", stream=True, temperature=0)
    for name in ("first", "second"):
        for piece in state.text_iter(name):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
