"""Queries that every sweep makes, mostly to find nothing: each is made and compiled once in a process.

An idle worker does little else, and SQLAlchemy takes longer to make one of them than PostgreSQL to answer it. They are
not prepared: a plan from a time when there were hardly any rows would be kept.
"""

import functools
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, ColumnElement, Select, all_, literal_column
from sqlalchemy.dialects.postgresql import ARRAY, psycopg
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import SQLCoreOperations

from pixcrawler_worker.db.session import execute_text

#: Makes a query from hashable arguments.
_Query: TypeAlias = Callable[..., Select[*tuple[Any, ...]]]

_DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]  # as SQLAlchemy has it
#: What stands in a compiled query for the parameter, in which compiling would double the percent sign.
_PLACE = "SKIPPED_IDS"
_SKIPPED = literal_column(_PLACE, ARRAY(BigInteger))


def not_skipped(column: SQLCoreOperations[int]) -> ColumnElement[bool]:
    """Return the condition that an id is none of those that `find` is given."""
    return column != all_(_SKIPPED)


def find(session: Session, query: _Query, *arguments: Hashable, skip: Collection[int] = ()) -> list[Any]:
    """Return the rows of a query.

    Args:
        session: any transaction.
        query: returns the query for the arguments. Every value in it becomes a part of its text.
        arguments: few different ones: a table, and settings of the process.
        skip: ids to leave out, where the query has the condition `not_skipped`.
    """
    return execute_text(session, _text(query, *arguments), {"skip": list(skip)}).fetchall()


def ids(session: Session, query: _Query, *arguments: Hashable, skip: Collection[int] = ()) -> list[int]:
    """Return the first column of what `find` returns."""
    return [row[0] for row in find(session, query, *arguments, skip=skip)]


@functools.cache
def _text(query: _Query, *arguments: Hashable) -> str:
    compiled = query(*arguments).compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})
    return str(compiled).replace(_PLACE, "%(skip)s::bigint[]")
