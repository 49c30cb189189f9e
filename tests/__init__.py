"""Tests of all that test.py leaves out, a file for each subject."""

import pytest

pytest.register_assert_rewrite("tests.support", "tests.storage.faults")
