"""Many questions about one text: the text is computed once, before the batch begins."""

import argparse

import tupelo as tp

TEXT = "A list of ages, complete.\nAnn: 20\nBob: 30\nCleo: 40\n\nThe same list again.\n"


@tp.function
def age(s, text, name):
    s += text
    s += f"{name}:" + tp.gen("age", dtype=int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://localhost:30000")
    tp.set_default_backend(tp.Runtime(endpoint=parser.parse_args().endpoint))

    names = ["Ann", "Bob", "Cleo"]
    items = [{"text": TEXT, "name": name} for name in names]
    for name, state in zip(names, age.run_batch(items, temperature=0), strict=True):
        print(f"{name} is {state['age']}; next year {state['age'] + 1}")


if __name__ == "__main__":
    main()
