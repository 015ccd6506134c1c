"""Tasks whose command may be the name of a script file beside the DAG: found, read and rendered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.validation import check_command
from airflow_provider_sbx.operators.command import (
    SCRIPT_SUFFIXES,
    is_python_file,
    is_script_file,
    python_script,
)
from airflow_provider_sbx.operators.task import SandboxTask
from airflow_provider_sbx.runs.ending import task_failures
from airflow_provider_sbx.runs.parameters import keeping_last_line_end

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class ScriptTask(SandboxTask):
    """A task that runs a command, or a script whose name stands in its place."""

    command: str
    template_ext: Sequence[str] = SCRIPT_SUFFIXES

    def _take_script(self) -> None:
        """See whether the command is the name of a script; once, before its text takes the name's place."""
        self._python_file = self.command if is_python_file(self.command) else None
        if not is_script_file(self.command):
            # Else Airflow takes `python main.py` for the name of a template file.
            self.template_ext = ()

    def resolve_template_files(self) -> None:
        """Read the script's file, unless the command is the path of a program in the sandbox."""
        if (
            self.template_ext
        ):  # of a DAG's many tasks most have none, and an environment takes a while to make
            self._look_for_script(self.get_template_env())
        super().resolve_template_files()

    def prepare_template(self) -> None:
        """Take no field for a file's name any more, once the script's text stands in the command."""
        if not is_script_file(self.command):
            self.template_ext = ()

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        r"""Render a template, keeping its last line end, which Jinja drops: `read` waits for it."""
        if seen_oids is not None and id(content) in seen_oids:
            return content  # another task's result, that is mapped over: no template
        env, suffixes = jinja_env or self.get_template_env(), self.template_ext
        if isinstance(content, str) and content == self.command:
            with task_failures():
                self._look_for_script(env, is_needed=True)
            return super().render_template(keeping_last_line_end(content, env), context, env, seen_oids)
        self.template_ext = ()  # of files, the command alone is taken for the name of one
        try:
            return super().render_template(keeping_last_line_end(content, env), context, env, seen_oids)
        finally:
            self.template_ext = suffixes

    def _shell_command(self) -> str:
        """Return what the shell is to run, as far as it is rendered."""
        if self._python_file is None:
            return self.command
        return python_script(check_command(self.command), self._python_file)

    def _look_for_script(self, env: jinja2.Environment, *, is_needed: bool = False) -> None:
        """See whether the script's file is there; a path from `/` on may also be the sandbox's.

        :raises InvalidParameterError: it is needed now, and isn't there.
        """
        if not self.template_ext or not is_script_file(self.command) or env.loader is None:
            return
        try:
            env.loader.get_source(env, self.command)
        except jinja2.TemplateNotFound:
            if self.command.startswith("/"):
                self.template_ext, self._python_file = (), None
            elif is_needed:
                raise InvalidParameterError(
                    "command",
                    f"there is no file {self.command!r} beside the DAG's file or in its template_searchpath",
                    "Name a script that is there; for one in the sandbox, write its whole path, from / on.",
                ) from None
        except (OSError, ValueError):
            pass  # it is there, and can't be read: Airflow says so, and loads the DAG
