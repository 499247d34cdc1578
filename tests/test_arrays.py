"""What comes in as an array: every dense form of real numbers, and one clear line for everything else."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from moeopt._arrays import exact_integers, to_numpy
from moeopt.errors import InputError

VALUES = [[3, 1], [0, 4]]


class Unwilling:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("no\nnever")


GOOD = {
    "list": VALUES,
    "numpy": np.array(VALUES),
    "half": np.array(VALUES, dtype=np.float16),
    "big endian": np.array(VALUES, dtype=">i2"),
    "masked without a mask": np.ma.masked_array(VALUES),
    "table": pd.DataFrame(VALUES),
    "table of nullable integers": pd.DataFrame(VALUES, dtype="Int64"),
    "table of integers and floats": pd.DataFrame({"a": [3, 0], "b": [1.0, 4.0]}),
    "tensor": torch.tensor(VALUES),
    "tensor with gradient": torch.tensor(VALUES, dtype=torch.float32, requires_grad=True),
    "bfloat16": torch.tensor(VALUES, dtype=torch.bfloat16),
    "float8": torch.tensor(VALUES).to(torch.float8_e4m3fn),
    "uint16": torch.tensor(VALUES, dtype=torch.uint16),
    "transposed": torch.tensor(VALUES).T.contiguous().T,
    "negative bit": (torch.tensor(VALUES) * 1j).conj().imag.neg(),
    "negative bit set": torch._neg_view(torch.tensor(VALUES, dtype=torch.float32)).neg(),
    "list of tensors": [torch.tensor(row) for row in VALUES],
}


@pytest.mark.parametrize("kind", GOOD)
def test_dense_real_numbers_are_taken_in_every_form(kind):
    assert to_numpy("load", GOOD[kind]).tolist() == VALUES


def test_a_tensor_with_its_negative_bit_set_is_resolved():
    tensor = torch.tensor([1 + 2j]).conj().imag
    assert tensor.is_neg()
    assert to_numpy("load", tensor).tolist() == [-2]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch calls some of these kinds experimental
    BAD = {
        "sparse": (torch.eye(2).to_sparse(), "load must be a dense tensor of real numbers, got layout sparse_coo"),
        "sparse rows": (torch.eye(2).to_sparse_csr(), "got layout sparse_csr"),
        "mkldnn": (torch.eye(2).to_mkldnn(), "got layout _mkldnn"),
        "meta": (torch.ones(2, device="meta"), "got a meta one"),
        "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "got a nested one"),
        "jagged": (
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
            "got a nested one",
        ),
        "quantised": (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "got a quantised one"),
        "half complex": (torch.ones(2, dtype=torch.complex32), "must hold real numbers, got dtype torch.complex32"),
        "complex": (torch.ones(2) * 1j, "must hold real numbers, got dtype torch.complex64"),
        "conjugate": ((torch.ones(2) * 1j).conj(), "must hold real numbers"),
        "bits": (torch.empty(2, dtype=torch.bits8), "must be a rectangular array of numbers: "),
        "list of sparse": ([torch.eye(2).to_sparse()] * 2, "must be a rectangular array of numbers: "),
        "complex array": (np.ones(2) * 1j, "must hold numbers, got dtype complex128"),
        "complex list": ([1j], "must hold numbers, got dtype complex128"),
        "objects": (np.array([[1, None]], dtype=object), r"must hold numbers, got dtype object: None at \(0, 1\)"),
        "integer too large": ([[1, 2**70]], r"must hold numbers, got dtype object: 1180591620717411303424 at \(0, 1\)"),
        "integer too large to be shown": ([10**5000], r"dtype object: a value of type int at \(0,\)"),
        "none": (None, "must hold numbers, got dtype object: None"),
        "set": ({1, 2}, r"must hold numbers, got dtype object: \{1, 2\}"),
        "text": ("3", "must hold numbers, got dtype <U1"),
        "list of texts": (["3", "4"], "must hold numbers, got dtype <U1"),
        "dates": (np.array(["2020-01-01"], dtype="datetime64[D]"), "got dtype datetime64"),
        "ragged": ([[1], [1, 2]], "must be a rectangular array of numbers"),
        "table of words": (pd.DataFrame({"a": [1], "b": ["x"]}), r"dtype object: 'x' at \(0, 1\)"),
        "table with a boolean": (pd.DataFrame({"a": [1], "b": [True]}), r"dtype object: True at \(0, 1\)"),
        "masked": (np.ma.masked_array([1, 2], mask=[False, True]), "got an array with masked entries"),
        "unwilling": (Unwilling(), "must be a rectangular array of numbers: no$"),
        "file": (sys.stdin, "must hold numbers, got dtype object"),
        "long name": (np.zeros(1, dtype=[("a\x1b" * 100, "i4")]), "must hold numbers, got dtype"),
    }


@pytest.mark.parametrize("kind", BAD)
def test_everything_else_is_an_input_error_of_one_line(kind):
    values, rule = BAD[kind]
    with pytest.raises(InputError, match=rule) as caught:
        to_numpy("load", values)
    message = str(caught.value)
    assert message.startswith("load must ")
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize("values", [[2.0**63], [-(2.0**63) * 1.5], [0.5], [np.nan], np.array([2**63], dtype=np.uint64)])
def test_what_is_no_64_bit_integer_is_named(values):
    with pytest.raises(InputError, match=r"ids must hold integers that fit 64 bits, got .* at \(0,\)"):
        exact_integers("ids", np.asarray(values))


def test_lists_need_no_torch():
    code = "import sys; from moeopt._arrays import to_numpy; to_numpy('x', [[1]]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
