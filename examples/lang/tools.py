"""Python functions that the model calls before it answers."""

import argparse

import tupelo as tp


def get_weather(city: str, days: int = 1) -> dict:
    """The weather of a city, for some days."""
    return {"city": city, "days": days, "degrees": 21, "sky": "clear"}


@tp.function
def ask(s, question):
    s += tp.user(question)
    s += tp.assistant(
        tp.gen("answer", tools=[get_weather], tool_choice="get_weather", max_tokens=60)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", default="http://localhost:30000")
    tp.set_default_backend(tp.Runtime(endpoint=parser.parse_args().endpoint))

    state = ask.run("What is the weather in Paris?", temperature=0)
    for call in state.get_meta_info("answer")["tool_calls"]:
        print(f"{call['name']}({call['arguments']}) -> {call['result']}")
    print(state["answer"])


if __name__ == "__main__":
    main()
