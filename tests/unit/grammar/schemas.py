"""A corpus of JSON Schemas as people write them, by name.

``SCHEMAS`` can be followed, and every length in them is bounded, so that an output of some hundred
tokens is complete. ``REFUSED`` cannot be: a word of each says which keyword the refusal must name.
"""

from typing import Any

Json = dict[str, Any]


def obj(properties: Json, *, required: list[str] | None = None, **more: Any) -> Json:
    """An object that has exactly these properties; all are required unless said otherwise."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


def arr(items: Any, low: int = 0, high: int = 3, **more: Any) -> Json:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high, **more}


def word(high: int = 12, low: int = 0) -> Json:
    return {"type": "string", "minLength": low, "maxLength": high}


def number(low: float = 0, high: float = 100) -> Json:
    return {"type": "number", "minimum": low, "maximum": high}


def whole(low: int = 0, high: int = 100) -> Json:
    return {"type": "integer", "minimum": low, "maximum": high}


def text_of(pattern: str) -> Json:
    return {"type": "string", "pattern": pattern}


ADDRESS = obj({"street": word(), "zip": text_of("^[0-9]{5}$"), "city": word()})
PERSON = obj({"name": word(), "age": whole(0, 130)})

_SCALARS: Json = {
    "string": word(),
    "string of one length": word(5, 5),
    "integer": whole(),
    "negative integer": whole(-50, -10),
    "integer above": {"type": "integer", "minimum": 7, "maximum": 1234},
    "integer, exclusive": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 9},
    "integer, multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "number": number(),
    "number, exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "number of both signs": number(-2.5, 2.5),
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "const string": {"const": "fixed"},
    "const number": {"const": 3.5},
    "const object": {"const": {"a": [1, None, True]}},
    "const with quotes": {"const": 'a "quoted" \\ text\n'},
    "enum of strings": {"enum": ["red", "green", "blue"]},
    "enum of kinds": {"enum": ["a", 1, None, False, {"x": 1}, [2]]},
    "enum in other scripts": {"enum": ["日本", "Ελλάδα", "🙂", "naïve"]},
    "enum of one": {"type": "string", "enum": ["only"]},
    "enum and type": {"type": "integer", "enum": [1, 2, 3]},
    "several types": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    "boolean or text": {"type": ["boolean", "string"], "maxLength": 5},
}
_PATTERNS: Json = {
    "pattern of digits": text_of("^[0-9]{3}-[0-9]{4}$"),
    "pattern of words": text_of("^(foo|bar)(-[a-z]{1,5})?$"),
    "pattern without anchors": {**text_of("[0-9]{2}"), "maxLength": 6},
    "pattern of hex": text_of("^#[0-9a-fA-F]{6}$"),
    "pattern of a version": text_of(r"^v\d{1,2}\.\d{1,2}\.\d{1,2}$"),
    "pattern of a plate": text_of("^[A-Z]{1,3}-[A-Z]{2} [1-9][0-9]{0,3}$"),
    "pattern and lengths": {**text_of("^[ab]+$"), "minLength": 2, "maxLength": 6},
    "pattern of escapes": text_of(r"^\[\w{1,4}\]\\$"),
    "format date": {"type": "string", "format": "date"},
    "format time": {"type": "string", "format": "time", "maxLength": 20},
    "format date-time": {"type": "string", "format": "date-time", "maxLength": 35},
    "format duration": {"type": "string", "format": "duration", "maxLength": 20},
    "format email": {"type": "string", "format": "email", "maxLength": 40},
    "format hostname": {"type": "string", "format": "hostname", "maxLength": 30},
    "format ipv4": {"type": "string", "format": "ipv4"},
    "format ipv6": {"type": "string", "format": "ipv6"},
    "format uuid": {"type": "string", "format": "uuid"},
}
_OBJECTS: Json = {
    "person": PERSON,
    "empty object": obj({}),
    "optional properties": obj({"a": whole(), "b": word()}, required=[]),
    "some required": obj({"a": whole(), "b": word(), "c": {"type": "null"}}, required=["b"]),
    "quoted names": obj({'a "b"': whole(), "c\\d": whole(), "é": whole(), "": whole()}),
    "nested objects": obj({"person": PERSON, "address": ADDRESS}),
    "five levels": obj({"a": obj({"b": obj({"c": obj({"d": obj({"e": whole()})})})})}),
    "additional integers": {
        "type": "object",
        "additionalProperties": whole(),
        "maxProperties": 0,
    },
    "one more property": {
        "type": "object",
        "properties": {"a": whole()},
        "required": ["a"],
        "additionalProperties": False,
        "title": "T",
        "description": "D",
        "examples": [{"a": 1}],
        "default": {"a": 2},
        "$comment": "C",
    },
    "pattern properties": {
        "type": "object",
        "properties": {"id": whole()},
        "patternProperties": {"^x-[a-z]{1,3}$": word(4)},
        "required": ["id"],
        "additionalProperties": False,
        "maxProperties": 1,
    },
    "ten properties": obj({f"field_{i}": whole() for i in range(10)}),
    "thirty optional": obj({f"option_{i}": {"type": "boolean"} for i in range(30)}, required=[]),
    "long names": obj({"the_name_of_the_first_field_is_long": whole(), "x" * 60: word(4)}),
    "names in common": obj({"item": whole(), "item_count": whole(), "item_cost": number()}),
    "property named type": obj(
        {"type": {"const": "object"}, "properties": whole(), "$ref": word(4)}
    ),
    "readOnly and deprecated": obj({"a": {**whole(), "readOnly": True, "deprecated": True}}),
}
_ARRAYS: Json = {
    "array of words": arr(word(6)),
    "array of one length": arr(whole(), 2, 2),
    "array of objects": arr(PERSON, 1, 2),
    "array of arrays": arr(arr(whole(0, 9), 1, 2), 1, 2),
    "array of enums": arr({"enum": ["x", "y"]}, 1, 5),
    "empty array": arr(whole(), 0, 0),
    "tuple": {
        "type": "array",
        "prefixItems": [word(4), whole(), {"type": "boolean"}],
        "items": False,
        "minItems": 3,
    },
    "tuple and more": {
        "type": "array",
        "prefixItems": [word(4)],
        "items": whole(),
        "minItems": 2,
        "maxItems": 4,
    },
    "tuple in object": obj(
        {
            "at": {
                "type": "array",
                "prefixItems": [number(), number()],
                "items": False,
                "minItems": 2,
            }
        }
    ),
    "array of unions": arr({"anyOf": [whole(), word(4)]}, 1, 4),
    "matrix": arr(arr(number(0, 1), 2, 2), 2, 2),
    "array of formats": arr({"type": "string", "format": "date"}, 1, 2),
    "nullable items": arr({"type": ["string", "null"], "maxLength": 3}, 0, 3),
}
_UNIONS: Json = {
    "anyOf scalars": {"anyOf": [whole(), word(5), {"type": "null"}]},
    "anyOf objects": {"anyOf": [PERSON, ADDRESS]},
    "anyOf overlapping": {"anyOf": [obj({"a": whole()}), obj({"a": whole(), "b": word(3)})]},
    "anyOf in property": obj({"value": {"anyOf": [whole(), {"type": "null"}]}}),
    "oneOf by const": {
        "oneOf": [
            obj({"kind": {"const": "circle"}, "radius": number()}),
            obj({"kind": {"const": "square"}, "side": number()}),
        ]
    },
    "oneOf by type": {"oneOf": [whole(), {"type": "boolean"}, word(4)]},
    "oneOf by enum": {
        "oneOf": [
            obj({"op": {"enum": ["add", "sub"]}, "by": whole()}),
            obj({"op": {"enum": ["neg"]}}),
        ]
    },
    "allOf of bounds": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "allOf of one": obj({"p": {"allOf": [PERSON]}}),
    "allOf of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": whole()}, "required": ["a"]},
            {"type": "object", "properties": {"b": word(4)}, "required": ["b"]},
        ],
        "type": "object",
        "properties": {"a": True, "b": True},
        "additionalProperties": False,
    },
    "allOf and enum": {"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", "d"]}]},
    "anyOf of consts": {"anyOf": [{"const": "x"}, {"const": 2}, {"const": None}]},
    "union of arrays": {"anyOf": [arr(whole(0, 9), 1, 2), arr(word(2), 1, 2)]},
    "discriminated list": arr(
        {
            "anyOf": [
                obj({"type": {"const": "text"}, "text": word(6)}),
                obj({"type": {"const": "image"}, "width": whole(), "height": whole()}),
            ]
        },
        1,
        2,
    ),
    "type beside anyOf": {"type": "object", "anyOf": [PERSON]},
}
_REFERENCES: Json = {
    "$defs": {"$defs": {"p": PERSON}, **arr({"$ref": "#/$defs/p"}, 1, 2)},
    "definitions": {
        "definitions": {"id": whole()},
        **obj({"from": {"$ref": "#/definitions/id"}, "to": {"$ref": "#/definitions/id"}}),
    },
    "ref of a ref": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": word(4)},
        **obj({"x": {"$ref": "#/$defs/a"}}),
    },
    "ref to a property": {**obj({"a": whole(), "b": {"$ref": "#/properties/a"}})},
    "escaped ref": {"$defs": {"a/b~c": whole()}, "$ref": "#/$defs/a~1b~0c"},
    "anchored draft": {"$schema": "http://json-schema.org/draft-07/schema#", **PERSON},
    "draft 2020-12": {"$schema": "https://json-schema.org/draft/2020-12/schema", **PERSON},
    "draft 2019-09": {"$schema": "https://json-schema.org/draft/2019-09/schema", **PERSON},
    "ref and description": {
        "$defs": {"c": {"enum": ["on", "off"]}},
        **obj({"state": {"$ref": "#/$defs/c", "description": "whether"}}),
    },
    "list that ends": {
        "$defs": {
            "node": obj(
                {
                    "value": whole(0, 9),
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                }
            )
        },
        "$ref": "#/$defs/node",
    },
    "shared enum": {
        "$defs": {"level": {"enum": ["low", "mid", "high"]}},
        **obj({"risk": {"$ref": "#/$defs/level"}, "gain": {"$ref": "#/$defs/level"}}),
    },
}
_BIG: Json = {
    "enum of 1000": {"enum": [f"value-{i:04d}" for i in range(1000)]},
    "hundred properties": obj({f"key_{i}": {"type": "boolean"} for i in range(100)}),
    "union of fifty": {
        "anyOf": [obj({"kind": {"const": f"k{i}"}, f"v{i}": whole(0, 9)}) for i in range(50)]
    },
    "invoice": obj(
        {
            "number": text_of("^INV-[0-9]{6}$"),
            "date": {"type": "string", "format": "date"},
            "customer": obj({"name": word(), "address": ADDRESS}),
            "lines": arr(obj({"sku": text_of("^[A-Z]{3}[0-9]{3}$"), "count": whole(1, 99)}), 1, 2),
            "paid": {"type": "boolean"},
        }
    ),
    "ticket": obj(
        {
            "id": {"type": "string", "format": "uuid"},
            "priority": {"enum": ["P0", "P1", "P2"]},
            "labels": arr({"enum": ["bug", "docs", "perf", "api"]}, 0, 3),
            "assignee": {"anyOf": [{"type": "null"}, PERSON]},
            "estimate_h": {"anyOf": [number(0, 40), {"type": "null"}]},
        }
    ),
    "geojson point": obj(
        {
            "type": {"const": "Feature"},
            "geometry": obj(
                {
                    "type": {"const": "Point"},
                    "coordinates": arr(number(-90, 90), 2, 2),
                }
            ),
            "properties": obj({"name": word()}),
        }
    ),
    "weather call": obj(
        {
            "name": {"const": "get_weather"},
            "arguments": obj(
                {"city": word(), "unit": {"enum": ["celsius", "fahrenheit"]}, "days": whole(1, 7)},
                required=["city"],
            ),
        }
    ),
    "answer with steps": obj(
        {
            "steps": arr(obj({"explanation": word(), "output": word()}), 1, 2),
            "final_answer": word(),
        }
    ),
    "entities": obj(
        {
            "people": arr(PERSON, 0, 2),
            "places": arr(obj({"name": word(), "country": text_of("^[A-Z]{2}$")}), 0, 2),
            "dates": arr({"type": "string", "format": "date"}, 0, 2),
        }
    ),
    "review": obj(
        {
            "sentiment": {"enum": ["positive", "neutral", "negative"]},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "topics": arr(word(8), 1, 3),
            "quote": {"anyOf": [word(), {"type": "null"}]},
        }
    ),
}

SCHEMAS: Json = {**_SCALARS, **_PATTERNS, **_OBJECTS, **_ARRAYS, **_UNIONS, **_REFERENCES, **_BIG}

REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": ('{"type": ', "JSON"),
    "a list": ("[1, 2]", "object or a boolean"),
    "NaN": ('{"const": NaN}', "NaN"),
    "invalid type": ({"type": "text"}, "type"),
    "type of a wrong kind": ({"type": 5}, "type"),
    "bad pattern": (text_of("(["), "unclosed"),
    "look-ahead": (text_of("^(?=a)b$"), "look-around"),
    "back-reference": (text_of(r"^(a)\1$"), "backreferences"),
    "unknown draft": ({"$schema": "http://example.com/none", "type": "string"}, "example.com"),
    "remote reference": ({"$ref": "http://example.com/a.json"}, "example.com"),
    "reference to a file": ({"$ref": "file:///etc/passwd"}, "passwd"),
    "reference to nothing": ({"$ref": "#/$defs/none"}, "none"),
    "reference to itself": ({"$ref": "#"}, "satisfy"),
    "references in a ring": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "satisfy",
    ),
    "false": (False, "satisfy"),
    "nothing fits": ({"type": "integer", "minimum": 5, "maximum": 3}, ""),
    "not": ({"not": {"type": "string"}}, "not"),
    "if": ({"if": {"type": "string"}, "then": {"maxLength": 2}}, "if"),
    "uniqueItems": ({**arr(whole()), "uniqueItems": True}, "uniqueItems"),
    "contains": ({**arr(whole()), "contains": {"const": 1}}, "contains"),
    "propertyNames": ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
    "dependentRequired": (
        {**obj({"a": whole(), "b": whole()}), "dependentRequired": {"a": ["b"]}},
        "dependentRequired",
    ),
    "unknown format": ({"type": "string", "format": "colour"}, "colour"),
    "oneOf that overlaps": ({"oneOf": [word(3), word(5)]}, "oneOf"),
    "minLength of text": ({"type": "string", "minLength": "3"}, ""),
    "depth 10,000": ('{"items":' * 10_000 + "{}" + "}" * 10_000, "nested"),
    "enum of 100,000": ({"enum": [f"v{i}" for i in range(100_000)]}, "at most"),
    "long chain of references": (
        {
            "$defs": {
                **{f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(10_000)},
                "d10000": whole(),
            },
            "$ref": "#/$defs/d0",
        },
        "simplify",
    ),
    "passes the check and fails in compile": (
        {"type": "number", "minimum": 1e-300, "maximum": 1e300},
        "range",
    ),
    "passes the check and takes for ever": (
        {"type": "integer", "multipleOf": 9_999_991},
        "simplify",
    ),
}
