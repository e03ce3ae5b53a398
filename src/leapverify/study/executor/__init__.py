"""What runs tasks: in this process, in a pool of processes, or on a Ray cluster; the results are the same."""

from leapverify.study.executor.choose import AUTOMATIC, Execution, execution
from leapverify.study.executor.exclusive import LOCK_PATIENCE_S, exclusive
from leapverify.study.executor.failure import (
    Deadline,
    Failure,
    Paused,
    StudyError,
    failure_message,
    failure_of,
    require_leave,
)
from leapverify.study.executor.task import Executor, Task, by_seed

__all__ = [
    "AUTOMATIC",
    "LOCK_PATIENCE_S",
    "Deadline",
    "Execution",
    "Executor",
    "Failure",
    "Paused",
    "StudyError",
    "Task",
    "by_seed",
    "exclusive",
    "execution",
    "failure_message",
    "failure_of",
    "require_leave",
]
