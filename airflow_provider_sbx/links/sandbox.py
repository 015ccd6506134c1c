"""`SandboxLink`: from a task instance to the page of its sandbox."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink, XCom

from airflow_provider_sbx.compat import AirflowRuntimeError
from airflow_provider_sbx.runs.ending import SESSION_URL_KEY

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class SandboxLink(BaseOperatorLink):
    """The page of the sandbox that a task runs in; there as soon as the task knows it.

    Airflow's pages read it from XCom, so that a task with `do_xcom_push=False` has none.
    """

    name = "Sandbox"

    @property
    def xcom_key(self) -> str:
        """The XCom that Airflow's pages read the address from."""
        return SESSION_URL_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or nothing where it isn't known.

        The worker asks at the task's end and at its deferral, and writes the answer over the XCom.
        """
        known = getattr(operator, "sandbox_page", None)
        if known is None:
            # Resumed after a deferral, the task does not know what it pushed before it.
            try:
                known = XCom.get_value(ti_key=ti_key, key=SESSION_URL_KEY)
            except AirflowRuntimeError:  # a link is no reason for a task to fail
                known = None
        return known if isinstance(known, str) else ""


class LinkedToSandbox(BaseOperator):
    """A task that shows the page of its sandbox."""

    operator_extra_links: Collection[BaseOperatorLink] = (SandboxLink(),)
    sandbox_page: str | None = None

    def _link_if_it_pushes(self) -> None:
        """Drop the link of a task that pushes nothing: Airflow would push an empty address.

        Called by the operators' constructors: with one of this class's own, Airflow would merge the DAG's
        defaults once more for each task, which takes a sixth of what it does for a BashOperator.
        """
        if not self.do_xcom_push:
            self.operator_extra_links = ()

    def show_page(self, context: Mapping[str, Any], url: str | None) -> None:
        """Link the task to a page; without an address, or where it is linked already, do nothing."""
        if self.do_xcom_push and url is not None and url != self.sandbox_page:
            self.sandbox_page = url
            context["ti"].xcom_push(key=SESSION_URL_KEY, value=url)
