import pytest

from moeopt.errors import InputError
from moeopt.load import LoadMatrix
from moeopt.report.settings import distinct, label, names, numbers, pick_layers, pose, shapes

LOAD = LoadMatrix([[3, 1, 2, 4]] * 4, layer_ids=(3, 4, 5, 9), source="t")


def test_numbers_read_lists_and_drop_repeats():
    assert numbers("gpus", "8, 16,8") == (8, 16)
    assert numbers("gpus", None) is None


@pytest.mark.parametrize("text", ["", "8,", "x", "0", "-8", "8.0", "8;16", "²"])
def test_numbers_refuse_anything_else_by_the_arguments_name(text):
    with pytest.raises(InputError, match="gpus must be integers >= 1"):
        numbers("gpus", text)


def test_names_read_lists_and_refuse_empty_ones():
    assert names("methods", "eplb, bldm,eplb") == ("eplb", "bldm")
    with pytest.raises(InputError, match="methods must be names"):
        names("methods", "eplb,")


@pytest.mark.parametrize(
    ("text", "ids"), [(None, (3, 4, 5, 9)), ("4", (4,)), ("0-4,9", (3, 4, 9)), ("9,3", (3, 9)), ("5-9,5", (5, 9))]
)
def test_layers_are_picked_by_the_traces_own_ids_in_its_order(text, ids):
    assert pick_layers(LOAD, text).layer_ids == ids


@pytest.mark.parametrize("text", ["0-2", "6", "3,7", "9-3", "100"])
def test_a_part_that_picks_no_layer_is_refused_with_the_layers_there_are(text):
    with pytest.raises(InputError, match="is not in t, whose layers are 3 to 9"):
        pick_layers(LOAD, text)


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "1-2-3", "3,,4", "3.5"])
def test_text_that_is_no_list_of_layers_is_refused(text):
    with pytest.raises(InputError, match="layers must be layer ids and ranges"):
        pick_layers(LOAD, text)


def test_the_default_shapes_are_the_notebooks_and_deepseeks_prefill_setting():
    assert shapes(256) == [(8, 256), (8, 320), (8, 384), (32, 288)]


@pytest.mark.parametrize("num_experts", [8, 60, 64, 128, 250])
def test_default_shapes_divide_and_fit_for_any_number_of_experts(num_experts):
    assert all(s % g == 0 and s >= num_experts for g, s in shapes(num_experts))


def test_every_combination_of_gpus_and_slots_is_wanted():
    assert shapes(4, (2, 4), (4, 8)) == [(2, 4), (2, 8), (4, 4), (4, 8)]
    assert shapes(6, gpus=(4,)) == [(4, 8)]
    assert shapes(6, slots=(16,)) == [(8, 16)]


def test_impossible_shapes_are_reasons_and_do_not_stop_the_others():
    problems, impossible = pose(LOAD, [(2, 4), (3, 4), (2, 2)])
    assert [label(problem) for problem in problems] == ["t_2gpus_4slots"]
    assert "num_slots=4 is not a multiple of num_gpus=3" in impossible[0]
    assert "below num_experts=4" in impossible[1]


def test_the_problem_is_posed_in_its_widest_reading():
    problem = pose(LOAD, [(2, 4)])[0][0]
    assert problem.allow_colocated
    assert problem.allow_empty_slots


def test_names_of_traces_are_distinct_and_fit_into_file_names():
    assert distinct(["a", "a", "A", "a-2", "x/y z", ".."]) == ["a", "a-2", "A-3", "a-2-2", "x_y_z", "trace"]
