"""What the turns of a loop have to do with each other, read from its syntax tree."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from clustrix.errors import ParallelError

if TYPE_CHECKING:
    from collections.abc import Iterable

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_WAYS_OUT = (
    *(ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFor, ast.AsyncWith),
    *(ast.Global, ast.Nonlocal, ast.Delete),
)


def root_of(node: ast.expr) -> str | None:
    """Name the variable that ``a.b[c].d`` begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def starred(arguments: list[ast.expr]) -> bool:
    """Tell whether a call has ``*arguments``."""
    return any(isinstance(argument, ast.Starred) for argument in arguments)


def refuse_ways_out(loop: ast.For) -> None:
    """Refuse what leaves a loop, or is about the function around it."""

    def look(node: ast.AST, *, inner: bool) -> None:
        if isinstance(node, SCOPES):
            return
        if isinstance(node, _WAYS_OUT) or (isinstance(node, ast.Break) and not inner):
            raise ParallelError(f"it holds {type(node).__name__.lower()}")
        for child in ast.iter_child_nodes(node):
            look(child, inner=inner or isinstance(node, (ast.For, ast.While)))

    for statement in loop.body:
        look(statement, inner=False)


def assigned(statements: Iterable[ast.AST]) -> set[str]:
    """Name what statements bind, except by ``+=`` and the like."""
    binder = _Binder()
    for statement in statements:
        binder.visit(statement)
    return binder.names


class _Binder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.names.add(node.name)

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef  # noqa: N815 - ast's names

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.names.add(node.id)

    def visit_alias(self, node: ast.alias) -> None:
        self.names.add((node.asname or node.name).partition(".")[0])

    def visit_ExceptHandler(self, node: ast.ExceptHandler | ast.MatchAs | ast.MatchStar) -> None:
        if node.name:
            self.names.add(node.name)
        self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_ExceptHandler  # noqa: N815 - ast's names


def loaded(nodes: Iterable[ast.AST]) -> set[str]:
    """Name what is read, also by ``+=`` and the like."""
    return {
        node.id
        for tree in nodes
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    } | {
        node.target.id
        for tree in nodes
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }


class Early:
    """Find what of its ``own`` variables a turn may read before it has assigned them, in ``names``."""

    def __init__(self, own: set[str]) -> None:
        self._own = own
        self.names: set[str] = set()

    def run(self, statements: Iterable[ast.stmt], known: set[str]) -> set[str]:
        """Follow statements from what is ``known`` to be assigned to what is then."""
        for statement in statements:
            step = getattr(self, f"_{type(statement).__name__.lower()}", self._plain)
            known = step(statement, known)
        return known

    def _reads(self, node: ast.AST, known: set[str]) -> None:
        rows = (row.target for row in ast.walk(node) if isinstance(row, ast.comprehension))
        self.names |= (loaded([node]) & self._own) - known - assigned(rows)

    def _plain(self, statement: ast.stmt, known: set[str]) -> set[str]:
        self._reads(statement, known)
        return known | assigned([statement])

    def _if(self, statement: ast.If, known: set[str]) -> set[str]:
        self._reads(statement.test, known)
        return self.run(statement.body, known) & self.run(statement.orelse, known)

    def _for(self, statement: ast.For, known: set[str]) -> set[str]:
        self._reads(statement.iter, known)
        self.run(statement.body, known | assigned([statement.target]))
        self.run(statement.orelse, known)
        return known

    def _while(self, statement: ast.While, known: set[str]) -> set[str]:
        self._reads(statement.test, known)
        self.run(statement.body, known)
        self.run(statement.orelse, known)
        return known

    def _with(self, statement: ast.With, known: set[str]) -> set[str]:
        for item in statement.items:
            self._reads(item.context_expr, known)
            if item.optional_vars is not None:
                known = known | assigned([item.optional_vars])
        return self.run(statement.body, known)

    def _try(self, statement: ast.Try, known: set[str]) -> set[str]:
        after = self.run(statement.orelse, self.run(statement.body, known))
        for handler in statement.handlers:
            after &= self.run(handler.body, known | ({handler.name} if handler.name else set()))
        return after | self.run(statement.finalbody, known)
