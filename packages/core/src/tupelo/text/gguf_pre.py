"""How each ``tokenizer.ggml.pre`` value splits a text before byte-pair merging.

A GGUF file names the splitting rule and does not contain it, so the rules live here. The patterns
are those of the models' own tokenizer files, written with what they share said once. A value that
is not listed is refused: a wrong split gives slightly wrong ids, which nothing later would notice.

Source: the published tokenizer.json files; llama.cpp ``src/llama-vocab.cpp`` for which value
means which pattern (its regex dialect needs other spellings of the same sets).
"""

from dataclasses import dataclass, replace
from functools import cache

from tupelo.errors import UnsupportedModel


@dataclass(frozen=True, kw_only=True)
class PreRule:
    """One splitting rule.

    Attributes:
        patterns: applied one after another, each to the pieces that the one before left; what
            a pattern matches and what lies between its matches are both pieces.
        byte_level: pieces are bytes written in GPT-2's alphabet; else UTF-8 with spaces marked.
        ignore_merges: a piece that is itself in the vocabulary is taken whole.
        whole_newlines: a run of newlines that is itself in the vocabulary is taken whole.
        add_bos: a text starts with BOS unless the file says otherwise.
        has_bos: False where the BOS id in the file means nothing.
    """

    patterns: tuple[str, ...]
    byte_level: bool = True
    ignore_merges: bool = False
    whole_newlines: bool = False
    add_bos: bool = False
    has_bos: bool = True


def pre_rule(name: str) -> PreRule:
    """The rule that ``tokenizer.ggml.pre = name`` stands for.

    Raises:
        UnsupportedModel: the value is unknown; the message lists the known ones.
    """
    rules = _rules()
    if name not in rules:
        raise UnsupportedModel(
            f"tokenizer.ggml.pre = {name!r} is not known, and guessing would give wrong token "
            f"ids; known: {', '.join(sorted(rules))}"
        )
    return rules[name]


# --- pieces of patterns -----------------------------------------------------------------------

_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK_WIDE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_THREES_FROM_RIGHT = r"\d{1,3}(?=(?:\d{3})*(?!\d))"
_SENTENCE = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"


def _cl100k(digits: str, *, marks: str = "", suffixes: str = _SUFFIXES + "|") -> str:
    """The pattern of Llama 3, Qwen 2 and their kin; ``digits`` is what they differ in."""
    return (
        rf"{suffixes}[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}{marks}]+|{digits}"
        rf"| ?[^\s\p{{L}}{marks}\p{{N}}]+[\r\n]*|{_BLANKS}"
    )


def _o200k(digits: str, *, suffixes: str = _SUFFIXES + "?", but: str = "") -> str:
    """The pattern of GPT-4o and its kin: words end where lower case turns to upper."""
    upper, lower = f"[{_UPPER}{but}]", f"[{_LOWER}{but}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{start}{upper}*{lower}+{suffixes}|{start}{upper}+{lower}*{suffixes}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
    )


def _deepseek_words(tail: str) -> str:
    """The last pattern of DeepSeek V3 and its kin."""
    return (
        rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
        rf"| ?[\p{{P}}\p{{S}}]+{tail}|\s+(?!\S)|\s+"
    )


def _kimi_words() -> str:
    """Kimi K2: Han characters apart, the rest as GPT-4o without Han letters."""
    rest = _o200k(r"\p{N}{1,3}", but=r"&&[^\p{Han}]").replace(r"[\r\n/]*", r"[\r\n]*")
    return rf"[\p{{Han}}]+|{rest}"


def _ranges(table: str) -> str:
    """Code point ranges in hexadecimal as the inside of a character class."""
    return "".join(
        "-".join(chr(int(end, 16)) for end in entry.split("-")) for entry in table.split()
    )


# --- the table ----------------------------------------------------------------------------------


@cache
def _rules() -> dict[str, PreRule]:
    gpt2 = PreRule(patterns=(_GPT2,))
    digit_gpt2 = PreRule(patterns=(r"\p{N}", _GPT2))
    llama3 = PreRule(patterns=(_cl100k(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
    glm = PreRule(patterns=llama3.patterns, has_bos=False)
    qwen2 = PreRule(patterns=(_cl100k(r"\p{N}"),))
    gpt4o = PreRule(patterns=(_o200k(r"\p{N}{1,3}"),))
    deepseek3 = PreRule(patterns=(r"\p{N}{1,3}", _CJK, _deepseek_words(r"[\r\n]*|\s*[\r\n]+")))
    aya = PreRule(patterns=(r"\d{1,3}(?=(?:\d{3})*\b)", _o200k(r"\p{N}{1,3}")))
    lines = PreRule(patterns=(r"[^\n]+|[\n]+",), byte_level=False)
    families = {
        gpt2: "gpt-2 mpt phi-2 olmo jais trillion granite-docling gigachat a.x-4.0 mellum "
        "modern-bert exaone4 jina-es jina-de jina-v2-es jina-v2-de",
        digit_gpt2: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
        llama3: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        replace(llama3, ignore_merges=False, add_bos=False): "dbrx smaug-bpe",
        glm: "chatglm-bpe",
        replace(glm, ignore_merges=True): "glm4 glm5",
        qwen2: "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan grok-2 solar-open",
        gpt4o: "gpt-4o llama4 kanana2 talkie minimax-m2",
        deepseek3: "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
        aya: "tiny_aya cohere2moe",
        PreRule(patterns=(_bailing(),)): "bailingmoe bailingmoe2 llada-moe",
        PreRule(patterns=(_SENTENCE,)): "poro-chat bloom gpt3-finnish",
        replace(lines, whole_newlines=True): "gemma4 granite-embed-multi-311m",
        lines: "sarvam-moe",
    }
    rules = {name: rule for rule, names in families.items() for name in names.split()}
    rules.update(_single_rules())
    return rules


def _single_rules() -> dict[str, PreRule]:
    """Rules that only one value uses."""
    tekken = _o200k(r"\p{N}", suffixes="")
    return {
        "default": PreRule(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
        "falcon": PreRule(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
        "minicpm5": PreRule(patterns=(r"\p{N}{1,3}", _cl100k(r"\p{N}+")), ignore_merges=True),
        "qwen35": PreRule(patterns=(_cl100k(r"\p{N}", marks=r"\p{M}"),)),
        "laguna": PreRule(patterns=(r"[^\n]+|[\n]+", _cl100k(r"\p{N}"))),
        "ufakzeka": PreRule(patterns=(_cl100k(r"\p{N}", suffixes=""),)),
        "jais-2": PreRule(patterns=(_jais2(),)),
        "seed-coder": PreRule(patterns=(_seed_coder(),)),
        "exaone-moe": PreRule(patterns=(_exaone_moe(),)),
        "tekken": PreRule(patterns=(tekken,), ignore_merges=True, add_bos=True),
        "kimi-k2": PreRule(patterns=(_kimi_words(),)),
        "viking": PreRule(patterns=(_SENTENCE, r"\p{N}")),
        "superbpe": PreRule(patterns=(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
        "youtu": PreRule(patterns=(_youtu_scripts(), _o200k(r"\p{N}")), ignore_merges=True),
        "granite-embed-multi-97m": PreRule(patterns=(_o200k(r"\p{N}{1,3}"),), ignore_merges=True),
        "spark2_5": PreRule(patterns=(r"\p{N}{1,3}", _CJK, _deepseek_words(r"|[\r\n]"), r"\p{N}")),
        "deepseek-llm": PreRule(
            patterns=(
                r"[\r\n]",
                rf"\s?[A-Za-z{_ranges(_CASED_LETTERS)}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"\s+$",
                _CJK_WIDE,
                r"\p{N}+",
            )
        ),
        "deepseek-coder": PreRule(
            patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_WIDE, r"\p{N}")
        ),
        "afmoe": PreRule(
            patterns=(
                _THREES_FROM_RIGHT,
                f"[{_ranges(_UNSPACED_SCRIPTS)}]+",
                _deepseek_words(r"[\r\n]*|\s*[\r\n]+"),
            )
        ),
        "chameleon": PreRule(
            patterns=(
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    }


def _bailing() -> str:
    return (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )


def _seed_coder() -> str:
    return (
        rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}"
    )


def _exaone_moe() -> str:
    word = r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
    return (
        rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?{word}|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    )


def _jais2() -> str:
    """Llama 3's words; white space in powers of two."""
    runs = "".join(rf"|\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1))
    return _cl100k(r"\p{N}{1,3}").removesuffix(r"|\s+(?!\S)|\s+") + runs + r"|\s{1,2}(?!\S)|\s{1}"


def _youtu_scripts() -> str:
    """Hangul, East Asian punctuation, Bopomofo, then Han and Kana, each apart."""
    marks = "\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
    punctuation = marks + "\u3001-\u303f\ufe30-\ufe4f"
    return f"[\uac00-\ud7a3\u3131-\u318e]+|[{punctuation}]+|[\u3105-\u312f]+|{_CJK}"


_CASED_LETTERS = """
    b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c
    38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf
    1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b
    1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec
    1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2134
    2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d
    a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a
    10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943
"""

_UNSPACED_SCRIPTS = """
    4e00-9fff 3400-4dbf f900-faff 3040-309f 30a0-30ff ff65-ff9f 2f00-2fdf e40-e7f e80-eff 1780-17ff
    1000-109f aa60-aa7f a9e0-a9ff ac00-d7af 1100-11ff
"""
