"""Every transition of a chunk there is, as docs/lifecycle.md draws it: what tests hold code and document against."""

from enum import StrEnum

from pixcrawler_worker.domain.lifecycle import ChunkState


class Event(StrEnum):
    CLAIM = "claim"
    FINISH = "finish"
    PUT_BACK = "put back"
    RELEASE = "release"
    FAIL = "fail"
    REAP = "reap"
    CANCEL = "cancel"
    RETRY = "retry"


#: From, event, to.
TRANSITIONS = frozenset(
    {
        (ChunkState.QUEUED, Event.CLAIM, ChunkState.RUNNING),
        (ChunkState.RUNNING, Event.FINISH, ChunkState.COMPLETED),
        (ChunkState.RUNNING, Event.PUT_BACK, ChunkState.QUEUED),
        (ChunkState.RUNNING, Event.RELEASE, ChunkState.QUEUED),
        (ChunkState.RUNNING, Event.FAIL, ChunkState.FAILED),
        (ChunkState.RUNNING, Event.REAP, ChunkState.QUEUED),
        (ChunkState.RUNNING, Event.REAP, ChunkState.FAILED),
        (ChunkState.QUEUED, Event.CANCEL, ChunkState.CANCELLED),
        (ChunkState.RUNNING, Event.CANCEL, ChunkState.CANCELLED),
        (ChunkState.FAILED, Event.RETRY, ChunkState.QUEUED),
        (ChunkState.CANCELLED, Event.RETRY, ChunkState.QUEUED),
    }
)
