"""The public API: about fifteen names that load on first use."""

import ast
import inspect
import subprocess
import sys

import pytest

import tinylm


@pytest.mark.parametrize("name", tinylm._MODULE_OF)
def test_every_public_name_is_callable_and_explains_itself(name):
    thing = getattr(tinylm, name)
    assert callable(thing) and thing.__doc__
    assert inspect.signature(thing).parameters


def test_importing_tinylm_is_instant():
    code = "import sys, tinylm; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", tinylm._PACKAGES)
@pytest.mark.parametrize(
    "first", ["import tinylm.{0}; f = tinylm.{0}", "from tinylm import {0} as f"]
)
def test_packages_can_be_called_however_they_were_imported(name, first):
    code = f"{first.format(name)}; import inspect; print(inspect.signature(f))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(inspect.signature(getattr(tinylm, name).function))


def test_type_checkers_see_the_same_names():
    block = next(
        node for node in ast.parse(inspect.getsource(tinylm)).body if isinstance(node, ast.If)
    )
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == tinylm._MODULE_OF


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tinylm.trian
    assert set(tinylm._MODULE_OF) <= set(dir(tinylm))
