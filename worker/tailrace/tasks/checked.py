"""The base of our tasks: arguments that a task could do nothing with are refused, in the caller and in the worker.

It goes where the tasks go, into a host's own Celery app too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task


class CheckedTask(Task):
    """A task with a rule: what it may be asked for. ``rule`` takes the task's arguments and raises for wrong ones."""

    Strategy = "tailrace.tasks.strategy:checked"
    """Celery's word for what a worker does with a message for a task."""

    @staticmethod
    def rule(*args: Any, **kwargs: Any) -> object:
        """Allow everything that fits the task's parameters; a task that needs more is given a rule of its own."""

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Make sure that the task may be asked for this.

        Raises:
            TypeError: the arguments do not fit the task's parameters.
            BadArgument: they can't be meant.
        """
        self.__header__(*args, **kwargs)
        self.rule(*args, **kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Send a message, as Celery does; `check` raises here, in the caller."""
        self.check(args or (), kwargs or {})
        return super().apply_async(args, kwargs, *rest, **options)
