"""Writing many rows at once, where one that the database rejects must not cost the others."""

import contextlib
from collections.abc import Callable, Iterator

from sqlalchemy.orm import Session

from pixcrawler_worker.db.session import driver


def write_each(
    count: int, write: Callable[[int, int], None], *, is_about_a_row: Callable[[Exception], bool]
) -> dict[int, Exception]:
    """Write rows together; after an error each half of them, then the halves of a half.

    Args:
        count: rows.
        write: writes the rows from a position up to another one, without that; when it raises, it has written none
            (`savepoint`).
        is_about_a_row: whether an error says something about the rows; any other one is raised.

    Returns:
        The errors of the rows that were rejected, by position.
    """
    errors: dict[int, Exception] = {}

    def write_between(first: int, last: int) -> None:
        try:
            write(first, last)
        except Exception as error:
            if not is_about_a_row(error):
                raise
            if last - first == 1:
                errors[first] = error
                return
            middle = (first + last) // 2
            write_between(first, middle)
            write_between(middle, last)

    if count:
        write_between(0, count)
    return errors


@contextlib.contextmanager
def savepoint(session: Session) -> Iterator[None]:
    """Undo what the block has written when it raises, so that the transaction of the session can go on.

    For statements only: objects of the session are not looked at, as `Session.begin_nested` does, which takes several
    times as long.
    """
    connection = driver(session)
    connection.execute("SAVEPOINT block", prepare=False)
    try:
        yield
    except BaseException:
        if not connection.closed:
            connection.execute("ROLLBACK TO SAVEPOINT block; RELEASE SAVEPOINT block", prepare=False)
        raise
    connection.execute("RELEASE SAVEPOINT block", prepare=False)
