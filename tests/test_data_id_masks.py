"""Things as published sets write them, as id maps."""

import numpy as np
import pytest

from segpipe.errors import DataError
from segpipe.id_maps import UNLABELLED, things_in
from stages.data.id_masks import checked_ids, from_cityscapes, from_voc
from stages.data.known import LABEL_SETS

CITY = LABEL_SETS["cityscapes"].classes


def test_cityscapes_cars_are_things_roads_are_surfaces_and_groups_are_neither() -> None:
    """Label ids: road 7, car 26, licence plate -1 as 65535 in 16 bits; a group of cars has no number."""
    ids = from_cityscapes(np.array([[7, 26000, 26001, 26, 0, 65535]], np.uint16), "a.png")
    car, road = CITY.index("car") * 1000, CITY.index("road") * 1000

    assert ids.tolist() == [[road, car + 1, car + 2, car, UNLABELLED, UNLABELLED]]
    assert [thing.code for thing in things_in(ids)] == [car + 1, car + 2]


def test_vocs_objects_get_their_classes_and_outlines_none() -> None:
    classes = np.array([[0, 15, 15, 255, 9]], np.uint8)
    objects = np.array([[0, 1, 2, 255, 3]], np.uint8)

    assert from_voc(classes, objects, "a.png").tolist() == [[0, 15001, 15002, UNLABELLED, 9003]]
    with pytest.raises(DataError, match=r"a\.png: the classes are \(1, 5\), the objects \(1, 4\)"):
        from_voc(classes, objects[:, :4], "a.png")


def test_a_map_of_ids_names_no_class_that_there_is_not() -> None:
    good = np.array([[0, 1001, UNLABELLED]], np.int32)

    assert checked_ids(good, ("ground", "cat"), "a.png").dtype == np.uint16
    with pytest.raises(DataError, match=r"a\.png holds 2001, which is class 2 of 2"):
        checked_ids(good + np.array([[0, 1000, 0]]), ("ground", "cat"), "a.png")


def test_a_thing_beyond_what_an_id_map_counts_is_refused() -> None:
    with pytest.raises(DataError, match="numbers a thing 1000"):
        from_cityscapes(np.array([[26999]], np.uint16), "a.png")
