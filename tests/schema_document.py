"""Parse `docs/database-schema.md` into values with the spelling of PostgreSQL's catalog.

The parser is strict: a line in an unknown form is an error, and so is a document that is shorter than it was.
Without that, comparing an empty list with an empty list would pass.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parents[1] / "docs" / "database-schema.md"

#: What the document has had from its first version.
_AT_LEAST = {
    "tables": 7,
    "columns": 81,
    "indexes": 12,
    "foreign keys": 7,
    "relationships": 13,
    "cascades": 6,
    "lookups": 13,
    "queries": 4,
}

_TYPES = {
    "Integer": "integer",
    "Text": "text",
    "UUID": "uuid",
    "JSONB": "jsonb",
    "DateTime": "timestamp with time zone",
}
_ON_DELETE = {
    "CASCADE DELETE": "CASCADE",
    "DELETE (cascade)": "CASCADE",
    "SET NULL on delete": "SET NULL",
    "SET NULL": "SET NULL",
}


class UnreadableError(Exception):
    """The document is not in the form that this parser expects."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as in the catalog; `default` is an expression in SQL."""

    name: str
    type: str
    nullable: bool
    default: str | None


@dataclass(frozen=True, slots=True, order=True)
class ColumnList:
    """Columns of a table, in the order of an index."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Index:
    name: str
    on: ColumnList
    unique: bool


@dataclass(frozen=True, slots=True, order=True)
class ForeignKey:
    table: str
    column: str
    parent: str
    parent_column: str
    on_delete: str


@dataclass(frozen=True, slots=True, order=True)
class Relationship:
    """An attribute of a model; `optional` means that it may be None."""

    table: str
    name: str
    target: str
    many: bool
    optional: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `noted_*` are the columns that have PK, UNIQUE or INDEX in their own line."""

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    foreign_keys: tuple[ForeignKey, ...]
    relationships: tuple[Relationship, ...]
    noted_primary: tuple[str, ...]
    noted_unique: tuple[str, ...]
    noted_indexed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cascade:
    parent: str
    child: str
    on_delete: str


@dataclass(frozen=True, slots=True)
class Query:
    title: str
    on: ColumnList
    sql: str


@dataclass(frozen=True, slots=True)
class Document:
    tables: tuple[Table, ...]
    cascades: tuple[Cascade, ...]
    lookups: tuple[ColumnList, ...]
    queries: tuple[Query, ...]


def read(text: str) -> Document:
    """Return the content of the document.

    Raises:
        UnreadableError: when a line has an unknown form, or something is missing.
    """
    specifications = _section(text, "## Table Specifications")
    _, *parts = re.split(r"^### \d+\. (\w+)$", specifications, flags=re.MULTILINE)
    document = Document(
        tables=tuple(_table(name, body) for name, body in zip(parts[::2], parts[1::2], strict=True)),
        cascades=tuple(_cascades(_section(text, "### Cascade Deletes"))),
        lookups=tuple(
            _column_list(found)
            for found in re.findall(r"^- `([^`]+)` - ", _section(text, "### Index Strategy"), re.MULTILINE)
        ),
        queries=tuple(
            Query(title=title, on=_column_list(on), sql=sql.strip())
            for title, on, sql in re.findall(
                r"^\d+\. \*\*(.+)\*\*: Use (?:composite )?index on `([^`]+)`\n\s*```sql\n([^`]+)```",
                _section(text, "### Query Optimization Tips"),
                re.MULTILINE,
            )
        ),
    )
    _require_everything(document)
    return document


def _require_everything(document: Document) -> None:
    tables = document.tables
    found = {
        "tables": len(tables),
        "columns": sum(len(table.columns) for table in tables),
        "indexes": sum(len(table.indexes) for table in tables),
        "relationships": sum(len(table.relationships) for table in tables),
        "foreign keys": sum(len(table.foreign_keys) for table in tables),
        "cascades": len(document.cascades),
        "lookups": len(document.lookups),
        "queries": len(document.queries),
    }
    if missing := {name: count for name, count in _AT_LEAST.items() if found[name] < count}:
        raise UnreadableError(f"expected at least {missing}, found {found}")


def _section(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of the same or a higher level."""
    level = len(heading.split(" ", maxsplit=1)[0])
    parts = re.split(rf"^{re.escape(heading)}$", text, flags=re.MULTILINE)
    if len(parts) != 2:
        raise UnreadableError(f"the heading {heading!r} occurs {len(parts) - 1} times")
    return re.split(rf"^#{{1,{level}}} ", parts[1], maxsplit=1, flags=re.MULTILINE)[0]


def _table(name: str, body: str) -> Table:
    columns: list[Column] = []
    noted: dict[str, list[str]] = {"PK": [], "UNIQUE": [], "INDEX": []}
    references: set[tuple[str, str]] = set()
    for column, type_, constraints, _notes in _rows(body, ["Column", "Type", "Constraints", "Notes"]):
        words = constraints.split(", ")
        columns.append(_column(name, column, type_, words))
        for word in words:
            if word in noted:
                noted[word].append(column)
            elif word.startswith("FK→"):
                references.add((column, word.removeprefix("FK→")))
    foreign_keys = tuple(_foreign_keys(name, body))
    if references != {(key.column, f"{key.parent}.{key.parent_column}") for key in foreign_keys}:
        raise UnreadableError(f"the columns of {name} and its list of foreign keys disagree")
    return Table(
        name=name,
        columns=tuple(columns),
        indexes=tuple(_indexes(name, body)),
        foreign_keys=foreign_keys,
        relationships=tuple(_relationships(name, body)),
        noted_primary=tuple(noted["PK"]),
        noted_unique=tuple(noted["UNIQUE"]),
        noted_indexed=tuple(noted["INDEX"]),
    )


def _column(table: str, name: str, documented_type: str, words: list[str]) -> Column:
    type_ = re.sub(r"^String(?=\(\d+\)$)", "character varying", documented_type)
    type_ = _TYPES.get(type_, type_)
    if type_ == documented_type:
        raise UnreadableError(f"{table}.{name} has the unknown type {documented_type!r}")
    nullable = default = None
    for word in words:
        if word == "NULL":
            nullable = True
        elif word in {"NOT NULL", "PK"}:
            nullable = False
        elif word == "AUTO_INCREMENT":
            default = f"nextval('{table}_{name}_seq'::regclass)"
        elif word.startswith("DEFAULT="):
            default = word.removeprefix("DEFAULT=")
            if default.startswith("'"):
                default += f"::{type_.partition('(')[0]}"
        elif word not in {"UNIQUE", "INDEX"} and not word.startswith("FK→"):
            raise UnreadableError(f"{table}.{name} has the unknown constraint {word!r}")
    if nullable is None:
        raise UnreadableError(f"{table}.{name} does not say whether it may be NULL")
    return Column(name, type_, nullable, default)


def _indexes(table: str, body: str) -> Iterator[Index]:
    for item in _items(body, "Indexes"):
        match = re.fullmatch(r"`(\w+)` on `\(?([\w, ]+)\)?`(?: \((.+)\))?", item)
        if match is None:
            raise UnreadableError(f"the index {item!r} of {table} has an unknown form")
        name, columns, remark = match.groups()
        yield Index(name, ColumnList(table, tuple(columns.split(", "))), unique=remark == "UNIQUE")


def _foreign_keys(table: str, body: str) -> Iterator[ForeignKey]:
    for item in _items(body, "Foreign Keys"):
        match = re.fullmatch(r"`(\w+)` → `(\w+)\.(\w+)` \((.+)\)", item)
        if match is None:
            raise UnreadableError(f"the foreign key {item!r} of {table} has an unknown form")
        column, parent, parent_column, behavior = match.groups()
        yield ForeignKey(table, column, parent, parent_column, _ON_DELETE[behavior])


def _relationships(table: str, body: str) -> Iterator[Relationship]:
    for item in _items(body, "Relationships"):
        match = re.fullmatch(r"(?:One-to-Many: (\w+)|Many-to-One: (\w+) \((\w+)(, optional)?\))", item)
        if match is None:
            raise UnreadableError(f"the relationship {item!r} of {table} has an unknown form")
        many, one, model, optional = match.groups()
        if many:
            # The document names no model here: the attribute has the name of the table.
            yield Relationship(table, many, many, many=True, optional=False)
        else:
            yield Relationship(table, one, _table_of(model), many=False, optional=optional is not None)


def _cascades(body: str) -> Iterator[Cascade]:
    for parent, child, behavior in _rows(body, ["Parent", "Child", "Behavior"]):
        yield Cascade(_table_of(parent), _table_of(child), _ON_DELETE[behavior])


def _table_of(model: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", model).lower() + "s"


def _column_list(words: str) -> ColumnList:
    """Parse `table.column` or `table(column, column)`."""
    match = re.fullmatch(r"(\w+)(?:\.(\w+)|\(([\w, ]+)\))", words)
    if match is None:
        raise UnreadableError(f"{words!r} is not a list of columns of a table")
    table, column, columns = match.groups()
    return ColumnList(table, (column,) if column else tuple(columns.split(", ")))


def _rows(body: str, header: list[str]) -> list[list[str]]:
    lines = [line for line in body.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if len(rows) < 2 or rows[0] != header or any(len(row) != len(header) for row in rows):
        raise UnreadableError(f"no table with the columns {header}")
    return rows[2:]


def _items(body: str, title: str) -> list[str]:
    """Return the items below a bold title; none if there is no such title."""
    match = re.search(rf"^\*\*{title}\*\*:\n((?:- .+\n)+)", body, re.MULTILINE)
    return [] if match is None else [line.removeprefix("- ") for line in match[1].splitlines()]
