"""Docstrings as the reference needs them: names as links, and an example as code."""

import ast
import re
from html import escape

import griffe

_ROLE = re.compile(r":(?:class|func|meth|attr|data):`([^`]+)`")
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Extension of griffe, which mkdocstrings loads by its file's name."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Write the docstrings of a whole package anew, once every name of it is known."""
        add_public_names(pkg)
        for thing in _inside(pkg):
            if thing.docstring is not None:
                text = linked(thing.docstring.value, thing)
                thing.docstring.value = _EXAMPLE.sub("Examples:", text)  # the one heading that griffe takes code below


def add_public_names(package: griffe.Module) -> None:
    """Add the names that the package has by its table of homes alone, as statements say of them only their type."""
    homes = ast.literal_eval(str(package["_HOMES"].value))
    for name in homes.keys() - package.members.keys():
        package.set_member(name, griffe.Alias(name, f"{homes[name]}.{name}", parent=package))


def linked(text: str, where: griffe.Object) -> str:
    """Return a docstring in which ``:class:`segzoo.Predictor``` is a link, where the reference has that name."""

    def link(role: re.Match[str]) -> str:
        identifier = escape(_full(role[1], where))
        return f'<autoref optional identifier="{identifier}"><code>{escape(role[1])}</code></autoref>'

    return _ROLE.sub(link, text)


def _full(name: str, where: griffe.Object) -> str:
    """Return a name from the package on; it is looked for as Python would, from where it stands."""
    first, dot, rest = name.partition(".")
    try:
        return where.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        return name


def _inside(thing: griffe.Object) -> list[griffe.Object]:
    members = [one for one in thing.members.values() if not one.is_alias]
    return [thing, *(found for one in members for found in _inside(one))]
