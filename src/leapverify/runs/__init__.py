"""What runs tasks: in this process, in a pool of processes, or on a Ray cluster; the results are the same."""

from leapverify.errors import Paused, StudyError
from leapverify.runs.deadline import Deadline
from leapverify.runs.executors import AUTOMATIC, Execution, execution
from leapverify.runs.failure import Failure, failure_message, failure_of, require_leave
from leapverify.runs.lock import LOCK_PATIENCE_S, exclusive
from leapverify.runs.task import Executor, Task, by_seed

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
