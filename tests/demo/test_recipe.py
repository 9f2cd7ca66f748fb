"""Recipe, data and batches: the same numbers in every framework and on every machine."""

import numpy as np
import pytest

from dtn_core.demo import digits
from dtn_core.demo.recipe import Recipe


def test_rate_rises_then_falls_to_nearly_nothing():
    recipe = Recipe(seed=0, epochs=1, peak_rate=2.0, warm_up=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[9] == max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.002


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_rate_of_a_short_run_is_positive(steps):
    assert all(Recipe(seed=0, epochs=1).rate(step, steps) > 0 for step in range(steps))


def test_batches_are_a_permutation_without_its_tail():
    batches = list(digits.batches(10, 3, seed=0, epoch=1))
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert len(set(np.concatenate(batches))) == 9


def test_batches_depend_on_seed_and_epoch_alone():
    def first(seed, epoch):
        return next(digits.batches(1000, 8, seed, epoch)).tolist()

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(0, 2)
    assert first(0, 1) != first(1, 1)


def test_batches_are_the_same_on_every_machine():
    assert next(digits.batches(100, 8, seed=0, epoch=1)).tolist() == [82, 76, 69, 92, 81, 19, 12, 33]


def test_noise_depends_on_seed_and_step_alone():
    images = np.zeros((2, 8, 8), np.float32)
    first = digits.noisy(images, 0.5, seed=0, step=3)
    assert first.dtype == np.float32
    assert first.std() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(first, digits.noisy(images, 0.5, seed=0, step=3))
    assert not np.array_equal(first, digits.noisy(images, 0.5, seed=0, step=4))
    assert not np.array_equal(first, digits.noisy(images, 0.5, seed=1, step=3))


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("sklearn")
    return digits.load(0)


class TestDigits:
    def test_sizes_and_types(self, data):
        assert data.train_images.shape == (1438, 8, 8)
        assert data.test_images.shape == (359, 8, 8)
        assert data.train_images.dtype == np.float32
        assert data.test_labels.dtype == np.int32

    def test_pixels_are_between_minus_one_and_one(self, data):
        assert data.train_images.min() == -1
        assert data.train_images.max() == 1

    def test_no_image_is_in_both_parts(self, data):
        every = np.concatenate([data.train_images, data.test_images]).reshape(1797, -1)
        labels = np.concatenate([data.train_labels, data.test_labels])
        assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
        from sklearn.datasets import load_digits

        original = load_digits().data / 8 - 1
        order = np.lexsort(every.T), np.lexsort(original.T)
        np.testing.assert_array_equal(every[order[0]], original[order[1]].astype(np.float32))

    def test_another_seed_is_another_split(self, data):
        assert not np.array_equal(digits.load(1).test_images, data.test_images)
