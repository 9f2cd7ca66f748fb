"""One safetensors file for every framework: what is in it, and what is refused before anything changes."""

import json

import layer_frameworks
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from dtn_core import layers, weights

SMALL = {"image_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1}
LINEAR = {"inputs": (("a", 3),), "outputs": (("b", 4),)}
DEFINITION = layers.DeepTensorClassifier(**SMALL)
IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)


@pytest.fixture(params=layer_frameworks.parameters())
def framework(request):
    return request.param()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def write(path, arrays, **metadata):
    """A file as any framework writes it, or with something changed."""
    axes = {name: parameter.axis_names for name, parameter in DEFINITION.named_parameters()}
    described = {"format": "deep-tensor-network", "format_version": "1", "axes": json.dumps(axes), **metadata}
    save_file(arrays, path, metadata=described)


def changed(**changes):
    """Weights of seed 5 with tensors replaced, added, or taken out (None)."""
    arrays = {**layers.initial_weights(DEFINITION, 5), **{name.replace("__", "."): a for name, a in changes.items()}}
    return {name: array for name, array in arrays.items() if array is not None}


def model(framework, **given):
    return framework.make("DeepTensorClassifier", **SMALL, **given)


def refused(framework, path):
    """The error of loading ``path``; the model must be as it was."""
    own = model(framework)
    with pytest.raises(weights.WeightsError) as caught:
        framework.dtn.load_weights(own, path)
    expected = layers.initial_weights(DEFINITION, 0)
    for name, value in framework.weights(own).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    return str(caught.value)


def test_the_file_holds_every_parameter_with_its_axis_names(framework, path):
    framework.dtn.save_weights(model(framework, seed=5), path)
    arrays, expected = load_file(path), layers.initial_weights(DEFINITION, 5)
    assert arrays.keys() == expected.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["format_version"] == "1"
    axes = json.loads(metadata["axes"])
    assert axes["blocks.0.attention.query.weight"] == ["embed", "head", "feature"]
    assert axes["patches.position"] == ["row", "column", "embed"]
    assert axes.keys() == expected.keys()


def test_a_file_of_any_framework_gives_its_values(framework, path):
    write(path, changed())
    own = model(framework)
    framework.dtn.load_weights(own, path)
    expected = layers.evaluate(DEFINITION, layers.initial_weights(DEFINITION, 5), IMAGES)
    np.testing.assert_allclose(framework.call(own, IMAGES), expected, rtol=2e-5, atol=2e-5)


def test_a_file_without_metadata_is_read_by_its_names(framework, path):
    save_file(changed(), path)
    own = model(framework)
    framework.dtn.load_weights(own, path)
    np.testing.assert_array_equal(framework.weights(own)["head.weight"], changed()["head.weight"])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_types_go_there_and_back(framework, path, dtype):
    first, second = (framework.make("TensorAttention", embed_dim=8, dtype=dtype, seed=seed) for seed in (0, 1))
    framework.dtn.save_weights(first, path)
    framework.dtn.load_weights(second, path)
    with safe_open(path, framework="numpy") as file:
        assert file.get_slice("query.weight").get_dtype() == {"float64": "F64", "bfloat16": "BF16"}[dtype]
    again = path.with_name("again.safetensors")
    framework.dtn.save_weights(second, again)
    with safe_open(path, framework="numpy") as one, safe_open(again, framework="numpy") as other:
        assert all(np.array_equal(one.get_tensor(name), other.get_tensor(name)) for name in one.keys())  # noqa: SIM118


def test_a_missing_tensor_is_named(framework, path):
    write(path, changed(head__bias=None))
    assert "head.bias: not in the file, shape (10,) in the model" in refused(framework, path)


def test_an_extra_tensor_is_named(framework, path):
    write(path, changed(head__scale=np.ones((2, 3), np.float32)))
    assert "head.scale: shape (2, 3) in the file, not in the model" in refused(framework, path)


def test_a_wrong_shape_is_named_with_both_shapes(framework, path):
    write(path, changed(head__weight=np.ones((10, 8), np.float32)))
    assert "head.weight: shape (10, 8) in the file, (8, 10) in the model" in refused(framework, path)


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, np.bool_])
def test_a_wrong_type_is_named_with_both_types(framework, path, dtype):
    write(path, changed(head__bias=np.ones(10, dtype)))
    name = {np.int32: "I32", np.complex64: "complex64", np.bool_: "BOOL"}[dtype]
    assert f"head.bias: {name} (10,) in the file, float32 (10,) in the model" in refused(framework, path)


@pytest.mark.parametrize("own", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("found", ["float64", "float32", "bfloat16", "float16"])
def test_other_precisions_are_rounded_to_the_model_s(framework, path, found, own):
    first, second = (
        framework.make("Projection", **LINEAR, dtype=dtype, seed=seed) for dtype, seed in ((found, 5), (own, 0))
    )
    framework.dtn.save_weights(first, path)
    framework.dtn.load_weights(second, path)
    framework.dtn.save_weights(second, path.with_name("again"))
    with safe_open(path, framework="numpy") as one, safe_open(path.with_name("again"), framework="numpy") as other:
        saved, again = one.get_tensor("weight"), other.get_tensor("weight")
    assert again.dtype.name == own
    np.testing.assert_array_equal(again, saved.astype(again.dtype))


def test_swapped_axes_of_one_size_are_found_by_their_names(framework, path):
    write(path, changed(), axes=json.dumps({"blocks.0.mlp.hidden_weight": ["hidden", "embed"]}))
    assert "blocks.0.mlp.hidden_weight (8, 32): axes ('hidden', 'embed') in the file" in refused(framework, path)


def test_a_model_of_another_size_shows_the_first_differences_and_their_number(framework, path):
    other = layers.DeepTensorClassifier(**{**SMALL, "embed_dim": 16})
    save_file(layers.initial_weights(other, 0), path)
    message = refused(framework, path)
    assert "patches.weight: shape (2, 2, 1, 16) in the file, (2, 2, 1, 8) in the model" in message
    assert message.count("\n") == weights.SHOWN + 1
    assert "more" in message.splitlines()[-1]


@pytest.mark.parametrize("metadata", [{"format_version": "2"}, {"axes": "["}, {"axes": "[1]"}, {"axes": '{"a": 3}'}])
def test_metadata_of_another_kind_is_refused(framework, path, metadata):
    write(path, changed(), **metadata)
    message = refused(framework, path)
    assert "format version 2 in the file" in message or "axis names" in message


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 64, b"PK\x03\x04" + bytes(60)])
def test_a_file_of_another_kind_is_refused(framework, path, content):
    path.write_bytes(content)
    assert "is not a safetensors file" in refused(framework, path)


def test_a_file_cut_short_is_refused(framework, path):
    write(path, changed())
    path.write_bytes(path.read_bytes()[:-5])
    assert "is not a safetensors file" in refused(framework, path)


def test_a_folder_is_refused(framework, path):
    with pytest.raises(IsADirectoryError, match="is a folder, expected a safetensors file"):
        framework.dtn.load_weights(model(framework), path.parent)
    with pytest.raises(IsADirectoryError, match="is a folder, expected the name of a file"):
        framework.dtn.save_weights(model(framework), path.parent)


def test_a_folder_that_is_not_there_is_named(framework, path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*absent"):
        framework.dtn.save_weights(model(framework), path.parent / "absent" / path.name)
    assert not list(path.parent.iterdir())


def test_no_file_is_file_not_found(framework, path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        framework.dtn.load_weights(model(framework), path)


def test_parameters_that_a_file_would_lose_are_refused(framework, path):
    own = framework.make("DeepTensorLM", vocab_size=11, embed_dim=8, num_heads=2, depth=1)
    own.extra = framework.make("MLP", embed_dim=8, hidden_dim=16)
    with pytest.raises(weights.WeightsError, match="parameters that a DeepTensorLM does not have, .*would lose them: "):
        framework.dtn.save_weights(own, path)
    assert not path.exists()


def test_a_parameter_that_is_not_there_is_named(framework, path):
    own = framework.make("DeepTensorLM", vocab_size=11, embed_dim=8, num_heads=2, depth=1)
    del own.blocks[0]
    with pytest.raises(weights.WeightsError, match=r"the model has no blocks\.0\."):
        framework.dtn.save_weights(own, path)


def test_others_read_the_file_where_they_read_any(framework, path):
    framework.dtn.save_weights(model(framework), path)
    other = path.parent / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_what_is_not_a_layer_is_refused(framework, path):
    with pytest.raises(TypeError, match="expected a layer of deep-tensor-network, got dict"):
        framework.dtn.save_weights({}, path)
    with pytest.raises(TypeError, match="expected a layer of deep-tensor-network, got dict"):
        framework.dtn.load_weights({}, path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(framework, path, monkeypatch):
    framework.dtn.save_weights(model(framework, seed=5), path)
    before = path.read_bytes()

    def fail(arrays, beside, metadata):
        beside.write_bytes(b"half")
        raise SafetensorError("disk full")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(weights.WeightsError, match="disk full"):
        framework.dtn.save_weights(model(framework), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
