"""Writes docs/models.md from the registry of families: ``python ci/models_page.py``.

With ``--check`` it writes nothing and says whether the page is up to date. Either way every family
must have a case among the parity tests, and every test that the page names must exist.
"""

import ast
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from tupelo.checkpoint import ENCODERS, FAMILIES, find_family
from tupelo.checkpoint.families import gguf_forms
from tupelo.checkpoint.rope import ROPE_KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
PARITY = ROOT / "tests" / "parity"

_TEMPLATE = """# Models

Written by `python ci/models_page.py` from the registry (`tupelo/checkpoint/families`) and the
parity tests; do not edit it here. [adding-a-model.md](adding-a-model.md) adds a line to it.

## Native families

Each is a file of what differs from a Llama. Checkpoints are read as published on the hub and as
transformers 5 saves them, sharded or not. Kinds of rope: {ropes}.

How they are verified: transformers makes a tiny seeded checkpoint for each case below. Every logit
must be within 1e-4 of its own in float32, and every greedy token equal: in whole prompts and in
chunks of 3 and 16, over 16 steps of decoding, in batches of mixed lengths, on pages of 1 and 16
tokens, beyond windows and original contexts (`tests/parity/test_families.py`), and over cached
prefixes (`tests/parity/test_prefix_cache.py`). In bfloat16 the error may be a quarter above that of
transformers. A family without a case fails CI.

Of models that see as well (`ForConditionalGeneration`) the text is served; images are refused.

Where transformers lets the length of a sequence decide how a rope turns (dynamic, longrope), the
served context length decides it here for all: keys are stored turned, and shared.

| what it is | architectures, with their `model_type` | cases |
| --- | --- | --- |
{families}

Where transformers has such a class of a family, a checkpoint of it embeds, classifies and scores
(`Model`, `ForSequenceClassification`, `ForTokenClassification`, sentence-transformers' files), and
is compared with it in `tests/parity/test_pooled_decoders.py`. See [embeddings.md](embeddings.md).

## Encoders

Vectors of texts and tokens, classes of texts and of tokens, within 1e-4 of transformers
(`tests/parity/test_encoders.py`).

| what it is | architectures, with their `model_type` |
| --- | --- |
{encoders}

## Through transformers

A causal model that the installed transformers has and the first table has not runs through
transformers' own modules, with our attention, cache and scheduler, on one rank; the log says so at
start. Verified to give the same logits and greedy tokens (`tests/parity/test_door.py`):

{door}

Others work too if their layers attend through transformers' attention interface. Those that do not
are refused by name, as {refused} are. Code that a checkpoint brings is never run.

## Files

- safetensors, single or sharded; pickled weights are refused. Quantised safetensors: {quantised};
  others are refused by name.
- GGUF of every family above, compared with the same model in safetensors
  (`tests/parity/test_gguf.py`); quantised types become numbers as they are loaded
  (`tests/unit/checkpoint/test_gguf.py`). Values of `general.architecture`:
  {gguf}.

## Real weights

| model | checked against | by |
| --- | --- | --- |
| {real} |

All other families have been compared on tiny random checkpoints alone.

## Somebody else's

A package may bring a family through the entry-point group `tupelo.models`
([adding-a-model.md](adding-a-model.md)).
"""

_REAL = (
    (
        "SmolLM2-135M-Instruct, GGUF Q4_1",
        "greedy tokens of transformers in float32",
        "`tests/parity/test_smollm2.py`, `ci/cpu/parity.py`",
    ),
    (
        "Gemma 3 270M, GGUF",
        "greedy tokens and log-probabilities of transformers in float32",
        "`ci/cpu/parity.py --gemma`, by hand",
    ),
    ("all-MiniLM-L6-v2", "vectors of transformers, 1e-5", "`tests/parity/test_minilm.py`"),
)


def main() -> int:
    """Write the page, or with ``--check`` compare it; 1 if it is stale or a family unproved."""
    page, problems = render()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        problems.append("docs/models.md is not up to date; run: python ci/models_page.py")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def render() -> tuple[str, list[str]]:
    """The page as it should be, and what is wrong with the registry or the page's references."""
    cases, stems = _cases(), _keys("pooled.py", "ENCODER_FIELDS")
    problems = [
        f"{name} has no case in tests/parity/families.py" for name in FAMILIES.keys() - cases
    ]
    problems += [
        f"{name} has no sizes in tests/parity/pooled.py"
        for name in ENCODERS
        if name.removesuffix("Model") not in stems
    ]
    quantised = {m for name in FAMILIES for m in find_family(name).quantised}
    page = _TEMPLATE.format(
        ropes=", ".join(ROPE_KINDS),
        families=_rows(FAMILIES, cases),
        encoders=_rows(ENCODERS),
        door="\n".join(f"- `{name}`" for name in _keys("test_door.py", "MODELS")),
        refused=" and ".join(f"`{name}`" for name in _refused()),
        quantised=_names(sorted(quantised)),
        gguf=_names(sorted(gguf_forms())),
        real=" |\n| ".join(" | ".join(row) for row in _REAL),
    )
    named = {part for part in page.split("`") if part.startswith(("tests/", "ci/"))}
    problems += [f"{n} is not there" for n in named if not (ROOT / n.split()[0]).exists()]
    return page, sorted(problems)


def _rows(registry: Mapping[str, str], cases: Mapping[str, list[str]] | None = None) -> str:
    """A row for each file of families: its first sentence, its architectures, their cases."""
    files: dict[str, list[str]] = {}
    for architecture, place in registry.items():
        files.setdefault(place.split(":")[0], []).append(architecture)
    rows = []
    for file, names in files.items():
        module = import_module(f"tupelo.checkpoint.families.{file}")
        about = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
        kinds = [f"{name} (`{find_family(name).model_type}`)" for name in names]
        cells = [about.strip().rstrip("."), "<br>".join(kinds)]
        if cases is not None:
            cells.append("<br>".join(", ".join(cases.get(name, ())) for name in names))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cases() -> dict[str, list[str]]:
    """Architecture, to the ids of its cases: of the calls ``Family(id, architecture, …)``."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(_tree("families.py")):
        match node:
            case ast.Call(
                func=ast.Name(id="Family"),
                args=[ast.Constant(value=str(case)), ast.Constant(value=str(architecture)), *_],
            ):
                found.setdefault(architecture, []).append(case)
    return found


def _keys(file: str, table: str) -> list[str]:
    """The keys of a table in a test."""
    for node in _tree(file).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys)) if (
                name == table
            ):
                return [key.value for key in keys if isinstance(key, ast.Constant)]
    raise SystemExit(f"tests/parity/{file} has no table {table}")


def _refused() -> list[str]:
    """The architectures that the test of refusals is run with."""
    for node in _tree("test_door.py").body:
        match node:
            case ast.FunctionDef(decorator_list=[ast.Call(args=[_, ast.List(elts=names)])]) if (
                "refused_by_name" in node.name
            ):
                return [name.value for name in names if isinstance(name, ast.Constant)]
    raise SystemExit("tests/parity/test_door.py has no test of refusals by name")


def _tree(file: str) -> ast.Module:
    return ast.parse((PARITY / file).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
