"""The public API of flagst and what its docstrings say, read from imports, signatures and source."""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType, ModuleType

#: Rooms whose ``__all__`` is the public API; one that does not exist is left out.
ROOMS = (
    "metrics", "tl", "pl", "pp", "io", "datasets", "encoders", "gfm", "baselines", "model", "train", "nn", "diffusion",
    "regression", "sampling",
)  # fmt: skip
#: Criterion -> smallest share of the objects it applies to.
THRESHOLDS = {"shapes": 0.95, "Raises": 0.98, "Examples": 0.95}

ARRAY = re.compile(r"\b(ndarray|Tensor|csr_matrix|csr_array|spmatrix|sparray|ArrayLike)\b")
ARRAY_IN_TEXT = re.compile(ARRAY.pattern + r"|\b(layers|obsm|varm)\[|\barrays?\b")
#: Parameters that are arrays, whether the signature says so or not.
ARRAY_NAMES = {"values", "predicted", "measured", "samples", "graph", "coords", "patches", "replicate", "state"}
CHECK = re.compile(r"_?(require|check)_\w+")
NUMBER = r"[A-Za-z_]\w*|\d+|\.\.\."
TUPLE = re.compile(rf"\(((?:{NUMBER})(?: ?[*+/-] ?(?:{NUMBER}))*(?:, (?:{NUMBER})(?: ?[*+/-] ?(?:{NUMBER}))*)*,?)\)")
LENGTH = re.compile(r"\b(n_\w+|d_\w+|\d+|[A-Za-z]|height|width)\b")


@dataclass(frozen=True)
class Item:
    """One public function, class or method."""

    name: str  # dotted, as a user reads it: "metrics.pcc", "model.FLAG.train"
    object: FunctionType | type
    owner: type | None = None  # the class that defines a method

    @property
    def doc(self) -> str:
        """Docstring of its own, and that of ``__init__`` of a class, without indentation."""
        own = self.object.__dict__.get("__init__") if self.is_class else None
        parts = [self.object.__doc__, getattr(own, "__doc__", None)]
        return "\n\n".join(inspect.cleandoc(part) for part in parts if part)

    @property
    def is_class(self) -> bool:
        return isinstance(self.object, type)

    @cached_property
    def code(self) -> list[ast.AST]:
        """What runs at a call: the function, or what the class itself defines of its construction."""
        tree = tree_of(self.object)
        if not self.is_class:
            return [tree]
        return [node for node in tree.body if getattr(node, "name", None) in ("__init__", "__post_init__")]

    @property
    def borrows_contract(self) -> bool:
        """Whether this method implements one of another library's classes, such as ``forward``."""
        others = [base for base in (self.owner.__mro__[1:] if self.owner else ()) if not is_ours(base)]
        return any(self.object.__name__ in base.__dict__ for base in others if base is not object)


def is_ours(thing) -> bool:
    return getattr(thing, "__module__", "").split(".")[0] in OURS


#: Packages whose objects are ours; the probe of the tests adds itself.
OURS = {"flagst"}


@cache
def tree_of(thing) -> ast.AST:
    """The parsed definition of a function or class."""
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


@cache
def functions_of(module: ModuleType) -> dict[str, ast.AST]:
    """Functions at the top level of a module."""
    tree = ast.parse(inspect.getsource(module))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def room(name: str) -> ModuleType | None:
    try:
        module = importlib.import_module(f"flagst.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"flagst.{name}":
            return None
        raise
    return module if hasattr(module, "__all__") else None


def public_items(module: ModuleType) -> list[Item]:
    """Functions and classes in ``__all__`` and the public methods of the latter, each definition once.

    Of a method that is inherited, the definition counts; an override without a docstring has that of the
    method it overrides. Properties, constants and dunders are no part of this.
    """
    label = module.__name__.removeprefix("flagst.")
    found: dict[int, Item] = {}
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or not is_ours(thing):
            continue
        found.setdefault(id(thing), Item(f"{label}.{name}", thing))
        for method in public_methods(thing) if inspect.isclass(thing) else ():
            found.setdefault(id(method.object), Item(f"{label}.{name}.{method.name}", method.object, method.owner))
    return list(found.values())


def public_methods(cls: type) -> Iterator[Item]:
    """Public methods with a body and a docstring of their own, unless nothing that they override has one."""
    seen = set()
    for base in filter(is_ours, cls.__mro__):
        for name, raw in vars(base).items():
            method = getattr(raw, "__func__", raw)
            if name.startswith("_") or name in seen or not inspect.isfunction(method):
                continue
            seen.add(name)
            inherits = method.__doc__ is None and any(getattr(b, name, None) for b in base.__mro__[1:])
            # torch_geometric writes methods into classes: their code is in a file elsewhere
            package = sys.modules[method.__module__.split(".")[0]]
            written = method.__code__.co_filename.startswith(str(Path(package.__file__).parent))
            if is_ours(method) and written and has_body(method) and not inherits:
                yield Item(name, method, base)


def has_body(method: FunctionType) -> bool:
    """Whether a method does anything: one that is abstract or of a protocol does not."""
    body = tree_of(method).body
    statements = body[1:] if is_text(body[0]) else body
    return any(not (isinstance(s, ast.Pass) or is_ellipsis(s) or raises_not_implemented(s)) for s in statements)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def raises_not_implemented(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node)


def needs_shapes(item: Item) -> bool:
    """Whether it takes, holds or returns arrays, as annotations, names of parameters or the docstring say."""
    nodes = [*item.code, *(fields_of(item.object) if item.is_class else ())]
    signatures = " ".join(text for node in nodes for text in annotations(node))
    names = {a.arg for node in item.code for a in arguments(node)}
    return bool(ARRAY.search(signatures) or ARRAY_IN_TEXT.search(item.doc) or names & ARRAY_NAMES)


def fields_of(cls: type) -> list[ast.AnnAssign]:
    """Annotated public attributes in the body of a class."""
    fields = [node for node in tree_of(cls).body if isinstance(node, ast.AnnAssign)]
    return [node for node in fields if not ast.unparse(node.target).startswith("_")]


def arguments(function: ast.FunctionDef) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs]


def annotations(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.AnnAssign):
        yield ast.unparse(node.annotation)
        return
    yield from (ast.unparse(a.annotation) for a in arguments(node) if a.annotation)
    if node.returns:
        yield ast.unparse(node.returns)


def has_shapes(item: Item) -> bool:
    """Whether a shape is in the docstring or, of a class, in a comment beside one of its attributes."""
    text = item.doc
    if item.is_class:
        lines = inspect.getsource(item.object).splitlines()
        ends = [node.end_lineno - 1 for node in fields_of(item.object)]
        text += "\n".join(lines[end].partition("#")[2] for end in ends)
    return any("," in inside and LENGTH.search(inside) for inside in TUPLE.findall(text))


def needs_raises(item: Item) -> bool:
    """Whether the body raises or calls a check, itself or in a private helper of its module or class."""
    helpers = dict(functions_of(inspect.getmodule(item.object)))
    cls = item.object if item.is_class else item.owner
    if cls is not None:
        helpers |= {node.name: node for node in tree_of(cls).body if isinstance(node, ast.FunctionDef)}
    called = {name for node in item.code for name in calls(node)}
    private = [helpers[name] for name in called if name.startswith("_") and name in helpers]
    return any(raises_or_checks(node) for node in [*item.code, *private])


def calls(tree: ast.AST) -> Iterator[str]:
    """Names of what is called: ``f`` of ``f()``, and of ``module.f()`` and ``self.f()``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "id", getattr(node.func, "attr", ""))


def raises_or_checks(tree: ast.AST) -> bool:
    found = any(isinstance(node, ast.Raise) and not raises_not_implemented(node) for node in ast.walk(tree))
    return found or any(CHECK.fullmatch(name) for name in calls(tree))


def has_section(doc: str, title: str) -> bool:
    return re.search(rf"^{title}\n-{{{len(title)}}}$", doc, re.MULTILINE) is not None


def needs_example(item: Item) -> bool:
    """Everything, except methods that another library calls (``forward``): their class has the example."""
    return not item.borrows_contract or has_section(item.doc, "Examples")


def has_example(item: Item) -> bool:
    return has_section(item.doc, "Examples") and ">>> " in item.doc


CRITERIA = {
    "shapes": (needs_shapes, has_shapes),
    "Raises": (needs_raises, lambda item: has_section(item.doc, "Raises")),
    "Examples": (needs_example, has_example),
}


def documented(items: list[Item], criterion: str) -> tuple[int, list[str]]:
    """How many objects a criterion applies to, and the names of those that do not meet it."""
    applies, holds = CRITERIA[criterion]
    asked = [item for item in items if applies(item)]
    return len(asked), [item.name for item in asked if not holds(item)]


def examples(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Name and docstring of what is public and has examples, properties and the room itself included."""
    label = module.__name__.removeprefix("flagst.")
    named = [(label, module)] + [(item.name, item.object) for item in public_items(module)]
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) and is_ours(thing):
            properties = {k: v for k, v in vars(thing).items() if isinstance(v, property) and not k.startswith("_")}
            named += [(f"{label}.{name}.{key}", value) for key, value in properties.items()]
    for name, thing in named:
        if ">>> " in (thing.__doc__ or ""):
            yield name, inspect.cleandoc(thing.__doc__)
