"""Parts of a text that are written side by side, from a beginning that is computed once."""

import argparse

import tupelo as tp


@tp.function
def advice(s, topics):
    s += "Advice for a healthy life, in a few words for each part of it.\n"
    branches = s.fork(len(topics))
    for topic, branch in zip(topics, branches, strict=True):
        branch += f"{topic}: you should" + tp.gen("tip", max_tokens=24, stop=["\n", "."])
    branches.join()
    for topic, tip in zip(topics, s["tip"], strict=True):
        s += f"- {topic}: you should{tip}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://localhost:30000")
    tp.set_default_backend(tp.Runtime(endpoint=parser.parse_args().endpoint))

    print(advice.run(["Sleep", "Food", "Sport"], temperature=0).text())


if __name__ == "__main__":
    main()
