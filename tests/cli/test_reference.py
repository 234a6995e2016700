"""The reference of the command line is what the commands say of themselves."""

import cli_reference


def test_the_reference_is_up_to_date() -> None:
    written = cli_reference.PATH.read_text(encoding="utf-8")
    assert written == cli_reference.reference(), "run `make docs`"


def test_help_fits_80_columns() -> None:
    lines = cli_reference.reference().split("```text\n", 1)[1].splitlines()
    assert [line for line in lines if len(line) > 80] == []
