"""Undo a slip of Celery's under gevent: parts of kombu are imported while gevent is patching, and keep what blocks.

gevent looks at every object there is; Celery's lazy ones answer by importing kombu, before `time` is patched. From then
on kombu waits for a lost broker with the real ``sleep``, which stops every reader of the process, the Writer and the
leases.
"""

from __future__ import annotations

import sys

FAMILY = ("amqp", "billiard", "celery", "kombu", "redis", "vine")


def mend() -> list[str]:
    """Return those packages what gevent has patched, wherever they hold the original. Returns what was mended."""
    from gevent import monkey

    patched = {
        id(original): (original, getattr(sys.modules[module], name))
        for module, names in monkey.saved.items()
        if module in sys.modules
        for name, original in names.items()
        if callable(original) and hasattr(sys.modules[module], name)
    }
    mended = []
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] not in FAMILY:
            continue
        for name, value in list(vars(module).items()):
            original, replacement = patched.get(id(value), (None, None))
            if original is not None and original is value and replacement is not value:
                setattr(module, name, replacement)
                mended.append(f"{module_name}.{name}")
    return sorted(mended)
