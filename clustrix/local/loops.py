"""Loops of a function, found in its syntax tree and shared out over the cores; nothing of it is evaluated for that.

The turns of a loop run apart from each other. What they do to the variables around them (append, add, extend, an item
assigned, ``+=`` and the like) is written down and done where the loop stands, in the order of the turns: the outcome is
that of the loop as it was written, or the loop is refused.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import textwrap
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from clustrix.errors import ParallelError
from clustrix.local import pool
from clustrix.local.dependences import SCOPES, Early, assigned, loaded, refuse_ways_out, root_of, starred

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_OURS = "_clustrix_"
_COLLECTING = frozenset({"append", "add", "extend", "update", "insert", "appendleft"})
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Split:
    """Be a function whose loops are shared out; picklable wherever the function is.

    Raises `ParallelError` when it is made, if no loop of the function can be.
    """

    def __init__(self, function: Callable[..., Any], source: str | None = None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.source = source or _source(function)
        self._tree = _rewritten(self.source, function.__qualname__)
        ast.increment_lineno(self._tree, function.__code__.co_firstlineno - 1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run it."""
        return self._made(*args, **kwargs)

    @functools.cached_property
    def _made(self) -> Callable[..., Any]:
        return _compiled(self._tree, self.function)

    def __reduce__(self) -> tuple[object, ...]:
        return Split, (self.function, self.source)


def shared_out(body: Callable[[Any, list[Any]], None], items: Iterable[Any]) -> Iterator[list[Any]]:
    """Run the turns of a loop and give what each has written down, in order; an error comes in its turn."""

    def turn(item: Any) -> tuple[list[Any], BaseException | None]:  # noqa: ANN401
        events: list[Any] = []
        try:
            body(item, events)
        except Exception as error:  # noqa: BLE001 - raised again below
            return events, error
        return events, None

    for events, error in pool.run(turn, list(items)):
        yield events
        if error is not None:
            raise error


def _source(function: Callable[..., Any]) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise ParallelError(
            f"the source of {function.__qualname__} cannot be found, and with it its loops",
            remedy="Define it in a file or a cell of a notebook, or leave out parallel=True.",
        ) from None


def _rewritten(source: str, name: str) -> ast.FunctionDef:
    try:
        tree = ast.parse(source).body[0]
    except SyntaxError:  # a lambda in the middle of an expression
        tree = ast.Pass()
    if not isinstance(tree, ast.FunctionDef):
        raise ParallelError(f"{name} is no function that is written with def", remedy="Leave out parallel=True.")
    tree.decorator_list, tree.returns = [], None
    for argument in ast.walk(tree.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    splitter = _Splitter(tree)
    tree.body = splitter.block(tree.body)
    if not splitter.count:
        reasons = "; ".join(splitter.reasons) or "it has none"
        raise ParallelError(
            f"no loop of {name} can be shared out: {reasons}",
            remedy="Make the body of the loop a function and use .map over it, or leave out parallel=True.",
        )
    return ast.fix_missing_locations(tree)


def _compiled(tree: ast.FunctionDef, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of the tree with the globals, closure and defaults of the one that was written."""
    free = function.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join((*free, _OURS + 'run'))}):\n    pass")
    outer.body[0].body = [tree]  # type: ignore[attr-defined]
    code: CodeType = compile(ast.fix_missing_locations(outer), function.__code__.co_filename, "exec")
    for name in ("outer", tree.name):
        code = next(one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == name)
    cells = dict(zip(free, function.__closure__ or (), strict=True))
    cells[_OURS + "run"] = CellType(shared_out)
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, None, closure)
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    return made


@dataclass
class _Effect:
    """Do again, with values that were written down, what a turn did to a variable around the loop."""

    statement: Callable[[ast.expr], ast.stmt]


class _Splitter:
    """Rewrite the loops of one function that can be shared out, the outermost ones; note why others cannot."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self._function = function
        self.count = 0
        self.reasons: list[str] = []

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for statement in statements:
            if isinstance(statement, ast.For):
                try:
                    made += self._split(statement)
                    continue
                except ParallelError as error:
                    self.reasons.append(f"line {statement.lineno}, {error.message}")
            elif isinstance(statement, (ast.While, ast.AsyncFor)):
                self.reasons.append(f"line {statement.lineno}, each turn of a while loop decides about the next")
            if not isinstance(statement, SCOPES):
                for field in ("body", "orelse", "finalbody"):
                    if inner := getattr(statement, field, None):
                        setattr(statement, field, self.block(inner))
                for handler in getattr(statement, "handlers", ()):
                    handler.body = self.block(handler.body)
            made.append(statement)
        return made

    def _split(self, loop: ast.For) -> list[ast.stmt]:
        refuse_ways_out(loop)
        targets = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        if any(
            not isinstance(node, (ast.Name, ast.Tuple, ast.List, ast.Store, ast.Starred))
            for node in ast.walk(loop.target)
        ):
            raise ParallelError("it counts in something else than plain variables")
        own = targets | assigned(loop.body)
        recorder = _Recorder(own)
        body = [recorder.visit(statement) for statement in loop.body]
        if not recorder.effects:
            raise ParallelError("its turns leave nothing behind that could be collected")
        changed = recorder.changed
        own -= changed
        used = [*body, ast.Expr(loop.iter)]
        if clash := sorted(changed & loaded(used)):
            raise ParallelError(f"a turn reads {', '.join(clash)}, which other turns change")
        early = Early(own)
        early.run(body, targets)
        if early.names:
            raise ParallelError(f"{', '.join(sorted(early.names))} is carried from one turn to the next")
        if late := sorted(own & self._loaded_elsewhere(loop)):
            raise ParallelError(f"{', '.join(late)} is used outside of it")
        self.count += 1
        return self._made(loop, body, recorder.effects)

    def _made(self, loop: ast.For, body: list[ast.stmt], effects: list[_Effect]) -> list[ast.stmt]:
        item, events, kind, values = (_OURS + word for word in ("item", "events", "kind", "values"))
        function = f"{_OURS}turn{self.count}"
        text = (
            f"def {function}({item}, {events}):\n    for _ in ({item},):\n        pass\n"
            f"for {events} in {_OURS}run({function}, None):\n    for {kind}, {values} in {events}:\n        pass\n"
        )
        definition, replay = ast.parse(text).body
        assert isinstance(definition, ast.FunctionDef)  # noqa: S101 - the text above
        assert isinstance(replay, ast.For)  # noqa: S101
        once, inner = definition.body[0], replay.body[0]
        assert isinstance(once, ast.For)  # noqa: S101
        assert isinstance(inner, ast.For)  # noqa: S101
        once.target, once.body = loop.target, body
        replay.iter.args[1] = loop.iter  # type: ignore[attr-defined]
        inner.body = [
            ast.If(
                ast.Compare(ast.Name(kind, ast.Load()), [ast.Eq()], [ast.Constant(number)]),
                [effect.statement(ast.Name(values, ast.Load()))],
                [],
            )
            for number, effect in enumerate(effects)
        ]
        for node in (definition, replay):
            ast.copy_location(node, loop)
        return [definition, replay, *loop.orelse]

    def _loaded_elsewhere(self, loop: ast.For) -> set[str]:
        """Name what the function reads outside of a loop, and not as the variable of another one."""
        found: set[str] = set()

        def look(node: ast.AST, bound: frozenset[str]) -> None:
            if node is loop:
                return
            if isinstance(node, ast.For):
                bound |= {one.id for one in ast.walk(node.target) if isinstance(one, ast.Name)}
            if isinstance(node, _COMPREHENSIONS):
                bound |= {
                    one.id for row in node.generators for one in ast.walk(row.target) if isinstance(one, ast.Name)
                }
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
                found.add(node.id)
            for child in ast.iter_child_nodes(node):
                look(child, bound)

        look(self._function, frozenset())
        return found


class _Recorder(ast.NodeTransformer):
    """Write down, instead of doing it, what a turn does to variables that are not its ``own``."""

    def __init__(self, own: set[str]) -> None:
        self._own = own
        self.effects: list[_Effect] = []
        self.changed: set[str] = set()

    def _noted(
        self, name: str, node: ast.AST, values: list[ast.expr], make: Callable[[ast.expr], ast.stmt]
    ) -> ast.stmt:
        self.changed.add(name)
        self.effects.append(_Effect(make))
        entry = ast.Tuple([ast.Constant(len(self.effects) - 1), ast.Tuple(values, ast.Load())], ast.Load())
        call = ast.Call(ast.Attribute(ast.Name(_OURS + "events", ast.Load()), "append", ast.Load()), [entry], [])
        return ast.copy_location(ast.Expr(call), node)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        call = node.value
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            return node
        holder, method = call.func.value, call.func.attr
        root = root_of(holder)
        if root is None or root in self._own:
            return node
        if not isinstance(holder, ast.Name) or method not in _COLLECTING or call.keywords or starred(call.args):
            if root in vars(builtins):
                return node
            raise ParallelError(f"it calls {ast.unparse(call.func)}, which may change {root}")

        def make(values: ast.expr) -> ast.stmt:
            attribute = ast.Attribute(ast.Name(root, ast.Load()), method, ast.Load())
            return ast.Expr(ast.Call(attribute, [ast.Starred(values, ast.Load())], []))

        return self._noted(root, node, call.args, make)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        target = node.target
        if isinstance(target, ast.Name):
            if target.id in self._own:
                return node
            name, index = target.id, None
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            name, index = target.value.id, target.slice
            if name in self._own:
                return node
        else:
            return self._elsewhere(target, node)
        return self._assignment(name, index, node.value, node, node.op)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and len(node.targets) == 1 and isinstance(target.value, ast.Name):
            if target.value.id in self._own:
                return node
            return self._assignment(target.value.id, target.slice, node.value, node, None)
        for one in node.targets:
            for part in ast.walk(one):
                if isinstance(part, (ast.Attribute, ast.Subscript)):
                    self._elsewhere(part, node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        return node if isinstance(node.target, ast.Name) else self._elsewhere(node.target, node)

    def _assignment(
        self, name: str, index: ast.expr | None, value: ast.expr, node: ast.stmt, operator: ast.operator | None
    ) -> ast.stmt:
        if isinstance(index, ast.Slice):
            raise ParallelError(f"it assigns a slice of {name}")

        def make(values: ast.expr) -> ast.stmt:
            first = ast.Subscript(values, ast.Constant(0), ast.Load())
            plain = ast.Name(name, ast.Store())
            where = ast.Subscript(values, ast.Constant(1), ast.Load())
            target = plain if index is None else ast.Subscript(ast.Name(name, ast.Load()), where, ast.Store())
            return ast.Assign([target], first) if operator is None else ast.AugAssign(target, operator, first)

        return self._noted(name, node, [value] if index is None else [value, index], make)

    def _elsewhere(self, target: ast.expr, node: ast.stmt) -> ast.stmt:
        root = root_of(target)
        if root in self._own:
            return node
        raise ParallelError(f"it changes {ast.unparse(target)}")
