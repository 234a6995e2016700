"""Writing many rows at once, where one that the database rejects must not cost the others."""

from collections.abc import Callable


def write_each(
    count: int, write: Callable[[int, int], None], *, is_about_a_row: Callable[[Exception], bool]
) -> dict[int, Exception]:
    """Write rows together; after an error each half of them, then the halves of a half.

    Args:
        count: rows.
        write: writes the rows from a position up to another one, without that; when it raises, it has written none
            (`Session.begin_nested`).
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
