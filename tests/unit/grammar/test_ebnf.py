"""EBNF: exactly the texts of the grammar, although the library's lexer is greedy."""

import random

import pytest
from tests.unit.grammar.recogniser import generate, matches
from tests.unit.grammar.walks import Walker

from tupelo.grammar.backend import GrammarError
from tupelo.grammar.ebnf import Chars, parse_ebnf

GRAMMARS = {
    "one rule": 'root ::= "yes" | "no"',
    "arithmetic": """
        root   ::= term (("+" | "-") term)*      # sums
        term   ::= factor (("*" | "/") factor)*
        factor ::= num | ident | "(" root ")"
        num    ::= [0-9]+ ("." [0-9]+)?
        ident  ::= [a-z] [a-z0-9_]*
    """,
    "json": r"""
        root   ::= object
        value  ::= object | array | string | number | ("true" | "false" | "null") ws
        object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
        array  ::= "[" ws (value ("," ws value)*)? "]" ws
        string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
        number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
        ws     ::= "" | " " | "\n" [ \t]{0,20}
    """,
    "balanced": 'root ::= "(" root ")" root | ""',
    "as many a as b": 'root ::= "a" root "b" | "ab"',
    "palindromes": 'root ::= "a" root "a" | "b" root "b" | [ab]?',
    "swallows its neighbour": 'root ::= [a-z]+ "x" [0-9]',
    "swallows in a rule": 'root ::= "(" root ")" | [a-z]+ "x" root?',
    "keyword or name": """
        root  ::= stmt+
        stmt  ::= "if" ident block | ident "=" [0-9]+ ";"
        block ::= "{" stmt* "}"
        ident ::= [a-z]+
    """,
    "prefixes of each other": 'root ::= item root | "."\nitem ::= "a" | "ab" | "abc" | "bc"',
    "ambiguous": 'root ::= root root | [a-c] | "ab"',
    "optional around": 'root ::= "x"? root "x"? | "y"{2,3} ("zz" | "z")',
    "names with marks": 'root ::= the-rule _x.y\nthe-rule ::= [a-b]{2}\n_x.y ::= the-rule | "-"',
    "unicode": 'root ::= [α-ω]{1,4} "→" ("日本" | "\\U0001F642" | "\\u00e9") root?',
    "lists": 'root ::= "- " line ("\\n" root)?\nline ::= [^\\n]{1,8}',
    "counts": 'root ::= "a"{3} "b"{1,} "c"{0,2} | "[" root "]"',
    "sql": """
        root   ::= "SELECT " cols " FROM " name (" WHERE " cond)?
        cols   ::= "*" | name (", " name)*
        cond   ::= name " = " value | "(" cond ") AND (" cond ")"
        value  ::= [0-9]{1,4} | "'" [a-z ]{0,6} "'"
        name   ::= [a-z_]{1,8}
    """,
}


def test_there_are_enough() -> None:
    assert len(GRAMMARS) >= 10


@pytest.mark.parametrize("name", GRAMMARS)
def test_every_text_of_a_grammar_is_accepted(walker: Walker, name: str) -> None:
    rules, draw = parse_ebnf(GRAMMARS[name]), random.Random(5)
    grammar = walker.shared("ebnf", GRAMMARS[name])
    tried = 0
    for _ in range(200):
        try:
            text = generate(rules, draw)
        except RecursionError:
            continue
        if len(text) <= 60:
            tried += 1
            assert walker.accepts(grammar.matcher(), text), text
        if tried == 30:
            return
    assert tried > 5


@pytest.mark.parametrize("name", GRAMMARS)
def test_what_is_generated_belongs_to_the_grammar(walker: Walker, name: str) -> None:
    rules = parse_ebnf(GRAMMARS[name])
    grammar = walker.shared("ebnf", GRAMMARS[name])
    complete = 0
    for seed in range(4):
        ids = walker.walk(grammar.matcher(), seed, 25)
        if len(ids) < 25:
            complete += 1
            assert matches(rules, walker.text(ids)), walker.text(ids)
    assert complete or name in ("swallows its neighbour", "keyword or name", "swallows in a rule")


@pytest.mark.parametrize("name", ["arithmetic", "keyword or name", "as many a as b", "counts"])
def test_texts_that_were_changed_are_judged_rightly(walker: Walker, name: str) -> None:
    rules, draw = parse_ebnf(GRAMMARS[name]), random.Random(6)
    grammar = walker.shared("ebnf", GRAMMARS[name])
    wrong = 0
    for _ in range(60):
        try:
            text = generate(rules, draw)
        except RecursionError:
            continue
        if not 0 < len(text) <= 20:
            continue
        place = draw.randrange(len(text))
        changed = text[:place] + draw.choice("ab(){}=+1;ix") + text[place + draw.randrange(2) :]
        expected = matches(rules, changed)
        wrong += not expected
        assert walker.accepts(grammar.matcher(), changed) == expected, changed
    assert wrong > 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "root"),
        ('start ::= "a"', "root"),
        ("root ::= a", "'a' is used"),
        ('root ::= "a', "line 1, column 10"),
        ('root ::= "a" )', "a rule was expected"),
        ("root ::= ( * )", "not expected"),
        ('root ::= ("a"', "never closed"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1"),
        ('root = "a"', "not understood"),
        ("root ::= [z-a]", "empty"),
        ("root ::= []", "no character"),
        (r'root ::= "\q"', "unknown escape"),
        (r'root ::= "\uD800"', "no character"),
        ('root ::= "a"{3,1}', "counts"),
        ('root ::= "a"{1,1000000}', "counts"),
        ('root ::= (= "a") "b"', "look-ahead"),
        ('root ::= TagDispatch(("a", b))', "tag dispatch"),
        ("root ::= root", "for ever"),
        ('root ::= "a" root', "for ever"),
        ('root ::= "a" a | "b" root\na ::= root "c"', "for ever"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, ""),
    ],
)
def test_bad_grammars_are_refused(walker: Walker, text: str, said: str) -> None:
    with pytest.raises((GrammarError, RecursionError)) as caught:
        walker.shared("ebnf", text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("[a-c]", ((97, 99),)),
        ("[a-cb-d]", ((97, 100),)),
        ("[-a]", ((45, 45), (97, 97))),
        ("[a-]", ((45, 45), (97, 97))),
        (r"[\]\\]", ((92, 93),)),
        (r"[\x41-\x43]", ((65, 67),)),
        (r"[a\-c]", ((45, 45), (97, 97), (99, 99))),
        ("[^\\x00-\\U0010FFFE]", ((0x10FFFF, 0x10FFFF),)),
        (".", ((0, 0x10FFFF),)),
    ],
)
def test_character_classes(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    node = parse_ebnf(f"root ::= {text}")["root"]
    assert isinstance(node, Chars)
    assert node.ranges == ranges
