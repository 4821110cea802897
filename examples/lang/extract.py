"""A dataclass out of a text: the model can write nothing else, and the program gets the object."""

import argparse
import dataclasses

import tupelo as tp


@dataclasses.dataclass
class Person:
    name: str
    age: int
    married: bool


@tp.function
def extract(s, text):
    s += f"The person {text}, as JSON: "
    s += tp.gen("person", json_schema=Person, max_tokens=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://localhost:30000")
    tp.set_default_backend(tp.Runtime(endpoint=parser.parse_args().endpoint))

    state = extract.run("Ann Lee, 31 years old, married", temperature=0)
    person = state["person"]
    print(f"{person.name} is {person.age}, and {'' if person.married else 'not '}married.")


if __name__ == "__main__":
    main()
