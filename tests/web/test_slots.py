from pixcrawler_worker.web.slots import FetchSlots


def test_a_chunk_may_have_what_the_others_leave_and_always_one() -> None:
    slots = FetchSlots(10)
    assert slots.free(1) == 10
    slots.note(1, taken=7, wanted=7)
    assert (slots.free(1), slots.free(2)) == (10, 3)
    slots.note(2, taken=9, wanted=9)
    assert (slots.free(1), slots.free(2), slots.free(3)) == (1, 3, 1)
    slots.leave(1)
    slots.leave(1)
    assert slots.free(2) == 10


def test_there_is_room_while_the_chunks_could_not_use_all_slots() -> None:
    slots = FetchSlots(10)
    assert slots.have_room()
    slots.note(1, taken=0, wanted=6)
    slots.note(2, taken=2, wanted=3)
    assert slots.have_room()
    slots.note(2, taken=2, wanted=4)
    assert not slots.have_room()
    slots.leave(1)
    assert slots.have_room()
