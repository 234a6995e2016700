"""`pixcrawler completion`."""

import click
from click.shell_completion import get_completion_class

_PROGRAM = "pixcrawler"
_VARIABLE = "_PIXCRAWLER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print the shell script that completes commands, options, sources and licenses.

    \b
    bash   eval "$(pixcrawler completion bash)"      in ~/.bashrc
    zsh    eval "$(pixcrawler completion zsh)"       in ~/.zshrc
    fish   pixcrawler completion fish | source       in ~/.config/fish/config.fish
    """  # noqa: D301 - click's mark for lines it must not wrap
    found = get_completion_class(shell)
    assert found is not None
    context = click.get_current_context().find_root()
    click.echo(found(context.command, {}, _PROGRAM, _VARIABLE).source())
