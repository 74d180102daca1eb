"""Which of two windows sees an object best."""

import torch

from anyres.predict.merge_windows import is_cut


def test_a_box_at_a_border_is_left_to_the_neighbour_that_sees_more_of_it():
    begins, window = ([0], [0, 40, 60]), (30, 60)
    boxes = torch.tensor([[45.0, 3, 60, 9], [30.0, 3, 60, 9], [45.0, 3, 55, 9], [0.0, 0, 9, 30]])
    assert is_cut(boxes, (0, 0), begins, window).tolist() == [True, False, False, False]
    boxes = torch.tensor([[40.0, 3, 50, 9], [40.0, 3, 60, 9], [70.0, 3, 100, 9], [50.0, 3, 100, 9]])
    assert is_cut(boxes, (0, 1), begins, window).tolist() == [True, False, True, False]
    boxes = torch.tensor([[60.0, 3, 90, 9], [110.0, 3, 120, 30]])
    assert is_cut(boxes, (0, 2), begins, window).tolist() == [True, False]
