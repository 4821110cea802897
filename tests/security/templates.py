"""Templates that want out of their sandbox, or all the time and memory there is."""

from tests.security.model import CHAT_TEMPLATE

ESCAPES = {
    "globals of a method": "{{ raise_exception.__globals__ }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('touch MARK') }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('touch MARK') }}",
    "joiner": "{{ joiner.__init__.__globals__.os.popen('touch MARK') }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "class of a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by a filter": "{{ (''|attr('__class__')).__mro__ }}",
    "attribute built of parts": "{{ ''|attr('__cl' ~ 'ass__') }}",
    "attribute by hex": "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "map of attributes": "{{ ['']|map(attribute='__class__')|list }}",
    "selectattr": "{{ ['']|selectattr('__class__')|list }}",
    "groupby": "{{ ['']|groupby('__class__')|list }}",
    "sum of attributes": "{{ ['']|sum(attribute='__class__') }}",
    "format": "{{ '{0.__class__}'.format('') }}",
    "format_map": "{{ '{x.__class__}'.format_map({'x': ''}) }}",
    "percent format": "{{ '%s' % self.__init__.__globals__ }}",
    "self": "{{ self._TemplateReference__context }}",
    "context": "{{ self.__dict__ }}",
    "loop": "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
    "macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "caller": "{% macro c() %}{{ caller._func.x }}{% endmacro %}{% call c() %}{% endcall %}",
    "generator": "{{ ([1]|select).gi_frame.f_globals }}",
    "code": "{{ raise_exception.__code__ }}",
    "function globals": "{{ strftime_now.__globals__ }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "do": "{% do messages.append(1) %}",
    "change a list": "{{ messages.append(1) }}",
    "change a mapping": "{{ messages[0].update(role='x') }}",
    "clear": "{{ messages.clear() }}",
    "request": "{{ request.application.__globals__ }}",
    "config": "{{ config.items() }}",
    "open": "{{ open('/etc/passwd').read() }}",
    "builtins": "{{ __builtins__ }}{{ __import__('os') }}",
    "type": "{{ dict.__subclasses__() }}",
    "mro of dict": "{{ dict.mro() }}",
    "a forbidden filter": "{{ 'x'|pprint|attr('__doc__') }}",
}
"""Each alone in a template; ``change a list`` and its kind would reach the next request."""

QUIET = {"config", "builtins", "request"}
"""What Jinja2 calls undefined: an error or an empty text, and no way out."""

STATEMENTS = ("import", "include", "extends", "do")
"""These cannot stand in a branch of a template that works otherwise."""

COSTS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(1000000000) %}{% endfor %}",
    "growing text": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99999) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "a long repetition": "{{ 'a' * 100000000000 }}",
    "a repeated list": "{{ ([0] * 10000000000) | length }}",
    "centre": "{{ 'a' | center(10000000000) }}",
    "format width": "{{ '%99999999999d' | format(1) }}",
    "str.format width": "{{ '{:>9999999999}'.format('a') }}",
    "recursion": "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "wide output": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "indent": "{{ ('a\n' * 100000) | indent(100000) }}",
    "batch": "{{ range(99999) | batch(1) | list | length }}{% for i in range(9999) %}"
    "{{ range(99999) | sort | length }}{% endfor %}",
}


def harmful(mark: str) -> str:
    """A chat template that does what the first message's content names; else it is the usual one.

    Args:
        mark: a path, for those escapes that would make a file.
    """
    chosen = {name: text for name, text in ESCAPES.items() if name not in STATEMENTS} | COSTS
    return CHAT_TEMPLATE + "".join(
        f"{{% if messages[0].content == {name!r} %}}{text.replace('MARK', mark)}{{% endif %}}"
        for name, text in chosen.items()
    )
