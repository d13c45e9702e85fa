"""The notice: once for each line of code, and the policy that makes it an error or silence."""

import linecache
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import roialign
from roialign.ops import notebook, notice
from roialign.ops.calls import LEAST_COVERAGE

ON_MAP = torch.tensor([[0.0, 1, 1, 6, 6]])
OFF_MAP = torch.tensor([[0.0, 90, 90, 99, 99]])
FEATURES = torch.ones(1, 2, 8, 8)


def pool(rois):
    return roialign.roi_align(FEATURES, rois, 2)


def words(call, coverage):
    return f"RA101: {int((coverage < LEAST_COVERAGE).sum())} of {len(call.rois)} RoIs are off the map"


@pytest.fixture(autouse=True)
def fresh_notice(monkeypatch):
    monkeypatch.setattr(notice, "_noticed", set())
    monkeypatch.setattr(notice, "explain", words)
    with roialign.set_policy("warn"):
        yield


@pytest.fixture
def caught():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def test_the_same_line_warns_once(caught):
    for _ in range(3):
        roialign.roi_align(FEATURES, OFF_MAP, 2)
    assert [(warning.category, str(warning.message)) for warning in caught] == [
        (roialign.RoIWarning, "RA101: 1 of 1 RoIs are off the map")
    ]


def test_two_lines_warn_twice_each_naming_its_own(caught):
    roialign.roi_align(FEATURES, OFF_MAP, 2)
    roialign.roi_align(FEATURES, OFF_MAP, 2)
    first, second = caught
    assert first.filename == second.filename == __file__
    assert second.lineno == first.lineno + 1
    with open(__file__) as source:
        assert "roialign.roi_align(FEATURES, OFF_MAP, 2)" in source.readlines()[first.lineno - 1]


def test_one_line_in_a_helper_warns_once_for_all_its_callers(caught):
    pool(OFF_MAP)
    pool(OFF_MAP)
    assert len(caught) == 1


def test_a_module_names_the_line_that_called_it(caught):
    module = roialign.RoIAlign(2, 1.0, -1)
    module(FEATURES, OFF_MAP)
    (warning,) = caught
    assert warning.filename == __file__


def test_the_default_filter_of_this_suite_makes_it_an_error():
    with pytest.raises(roialign.RoIWarning, match="RA101"):
        pool(OFF_MAP)


@pytest.mark.parametrize(
    ("rois", "said"),
    [
        (ON_MAP, False),
        (torch.empty(0, 5), False),
        (torch.tensor([[0.0, -3, 0, 5, 5]]), False),
        (torch.tensor([[0.0, -9, 0, 5, 5]]), True),
        (torch.tensor([[0.0, -90, -90, 98, 98]]), False),
        (torch.cat([ON_MAP, OFF_MAP]), True),
    ],
    ids=[
        "on the map",
        "no boxes",
        "5 of 8 columns on it",
        "5 of 14 columns on it",
        "centred on it",
        "one of two off it",
    ],
)
def test_what_it_takes(caught, rois, said):
    pool(rois)
    assert len(caught) == said


def test_the_words_are_given_the_call_and_its_coverage(monkeypatch):
    seen = []
    monkeypatch.setattr(notice, "explain", lambda call, coverage: seen.append((call, coverage)) or "RA101: words")
    with pytest.raises(roialign.RoIWarning):
        roialign.roi_align(FEATURES, [OFF_MAP[:, 1:]], (2, 3), 0.5, 4, True)
    ((call, coverage),) = seen
    assert (call.output_size_hw, call.spatial_scale, call.sampling_ratio, call.aligned) == ((2, 3), 0.5, 4, True)
    assert call.input is FEATURES
    assert torch.equal(call.rois, OFF_MAP)
    assert coverage.tolist() == [0.0]


def test_raise_raises_each_time():
    with roialign.set_policy("raise"):
        for _ in range(2):
            with pytest.raises(roialign.errors.CoverageError, match=r"^RA101: 1 of 1") as raised:
                pool(OFF_MAP)
            assert raised.value.code == "RA101"
        pool(ON_MAP)


def test_ignore_says_nothing_and_does_not_look(caught, monkeypatch):
    monkeypatch.setattr(notice, "explain", lambda *_: pytest.fail("looked"))
    with roialign.set_policy("ignore"):
        assert not pool(OFF_MAP).any()
    assert not caught


def test_as_a_function_it_holds_from_then_on():
    roialign.set_policy("ignore")
    assert notice.get_policy() == "ignore"
    pool(OFF_MAP)
    roialign.set_policy("raise")
    with pytest.raises(roialign.errors.CoverageError):
        pool(OFF_MAP)


def test_as_a_context_manager_it_nests():
    with roialign.set_policy("raise"):
        with roialign.set_policy("ignore"):
            with roialign.set_policy("warn"):
                assert notice.get_policy() == "warn"
            assert notice.get_policy() == "ignore"
        assert notice.get_policy() == "raise"
    assert notice.get_policy() == "warn"


def test_an_exception_ends_the_block_too():
    with pytest.raises(KeyError), roialign.set_policy("raise"):
        raise KeyError
    assert notice.get_policy() == "warn"


def test_a_block_inside_which_the_policy_was_set_puts_the_former_back():
    with roialign.set_policy("ignore"):
        roialign.set_policy("raise")
    assert notice.get_policy() == "warn"


@pytest.mark.parametrize("policy", ["error", "", "WARN", None, 1, ["warn"], float("nan")])
def test_an_unknown_policy_is_refused_and_changes_nothing(policy):
    with pytest.raises(roialign.RoIError, match=r"^RA506: expected a policy, one of 'warn', 'raise', 'ignore'; got"):
        roialign.set_policy(policy)
    assert notice.get_policy() == "warn"


class Shell:
    """As much of IPython's shell as names cells."""

    def __init__(self, **names):
        self.compile = type("Compiler", (), {"_filename_map": names})()
        self.execution_count = 7


@pytest.fixture
def shell(monkeypatch):
    shell = Shell(**{__file__: 3})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


def test_a_cell_is_named_and_its_line_is_shown(caught, shell):
    linecache.getline(__file__, 1)
    pool(OFF_MAP)
    assert caught[0].filename == "Cell In[3]"
    assert linecache.getline("Cell In[3]", caught[0].lineno) == "    return roialign.roi_align(FEATURES, rois, 2)\n"


def test_a_cell_that_is_run_again_is_warned_again(caught, shell):
    for shell.execution_count in (7, 7, 8):
        pool(OFF_MAP)
    assert len(caught) == 2


def test_files_that_are_no_cells_keep_their_names(shell):
    assert notebook.cell("/tmp/ipykernel_1/2.py") is None
    assert notebook.source_file("/tmp/ipykernel_1/2.py") == "/tmp/ipykernel_1/2.py"
    assert notebook.cell("<ipython-input-12-0123456789ab>") == "Cell In[12]"  # IPython 7


@pytest.mark.parametrize("ipython", [None, SimpleNamespace(), SimpleNamespace(get_ipython=lambda: None)])
def test_without_a_shell_there_are_no_cells(monkeypatch, ipython):
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert notebook.cell(__file__) is None
    assert notebook.run() is None
