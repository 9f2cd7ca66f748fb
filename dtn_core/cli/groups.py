"""Groups of commands: without arguments they show their help; one has a command that need not be named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class HelpByDefault(TyperGroup):
    """A group that shows its help when nothing is asked of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])


class RunByDefault(HelpByDefault):
    """A group in which ``OP`` is short for ``run OP``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)
