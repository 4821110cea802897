"""A choice among given texts, and how probable the model finds each."""

import argparse

import tupelo as tp

CITIES = ["Rome", "Paris", "Berlin"]


@tp.function
def capital(s, country):
    s += f"The capital of {country} is " + tp.select("city", CITIES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://localhost:30000")
    tp.set_default_backend(tp.Runtime(endpoint=parser.parse_args().endpoint))

    for country in ("France", "Italy", "Germany"):
        state = capital.run(country)
        scores = state.get_meta_info("city")["scores"]
        shown = ", ".join(f"{c} {s:.2f}" for c, s in zip(CITIES, scores, strict=True))
        print(f"{country}: {state['city']} ({shown})")


if __name__ == "__main__":
    main()
