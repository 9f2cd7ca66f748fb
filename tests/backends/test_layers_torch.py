"""PyTorch's own ways with a module: compile, func, autocast, state_dict, pickle, devices and types."""

import copy
import io
import pickle

import layer_frameworks
import numpy as np
import pytest

dtn = layer_frameworks.require("torch")
import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402

from dtn_core.weights import WeightsError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

IMAGES = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32))


def model(**given):
    return dtn.DeepTensorClassifier(**{"image_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1, "seed": 0, **given})


@pytest.mark.parametrize("mixer", ["tensor", "softmax"])
def test_compiles_to_one_graph_forward_and_backward(mixer):
    own = model(mixer=mixer)
    compiled = torch.compile(own, fullgraph=True, backend="aot_eager")
    keep = torch.tensor([[True, True, True, False], [True, False, True, True], [False, False, False, True]])
    torch.testing.assert_close(compiled(IMAGES), own(IMAGES))
    torch.testing.assert_close(compiled(IMAGES, padding_mask=keep), own(IMAGES, padding_mask=keep))
    expected = torch.autograd.grad(own(IMAGES).square().sum(), list(own.parameters()))
    found = torch.autograd.grad(compiled(IMAGES).square().sum(), list(own.parameters()))
    torch.testing.assert_close(found, expected)


def test_runs_on_fake_tensors_however_often_it_ran_on_real_ones():
    made = lambda: dtn.DeepTensorLM(vocab_size=20, embed_dim=8, num_heads=2, depth=1)  # noqa: E731
    made()(torch.zeros(2, 5, dtype=torch.long))
    with FakeTensorMode():
        found = made()(torch.zeros(2, 5, dtype=torch.long))
    assert type(found) is FakeTensor
    assert found.shape == (2, 5, 20)


def test_exports():
    own = model()
    exported = torch.export.export(own, (IMAGES,))
    torch.testing.assert_close(exported.module()(IMAGES), own(IMAGES))


def test_gradients_of_every_sample_by_vmap_and_grad():
    own = model()
    parameters = dict(own.named_parameters())
    labels = torch.tensor([0, 3, 9])

    def loss(parameters, image, label):
        logits = torch.func.functional_call(own, parameters, (image[None],))
        return torch.nn.functional.cross_entropy(logits, label[None])

    every = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, IMAGES, labels)
    first = torch.func.grad(loss)(parameters, IMAGES[0], labels[0])
    for name, value in first.items():
        torch.testing.assert_close(every[name][0], value, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_models_by_vmap_over_stacked_parameters():
    models = [model(seed=seed) for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    values = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (IMAGES,)))(parameters, buffers)
    torch.testing.assert_close(values, torch.stack([own(IMAGES) for own in models]))


def test_second_derivatives_exist():
    layer = dtn.TensorAttention(4, 2, seed=0, dtype=torch.float64)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4))).requires_grad_()
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_autocast_runs_and_keeps_the_parameters_in_float32():
    own = model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = own(IMAGES)
    logits.float().square().sum().backward()
    torch.testing.assert_close(logits.float(), own(IMAGES), rtol=0.05, atol=0.05)
    assert all(parameter.grad.dtype == torch.float32 for parameter in own.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_moves_to_another_type(dtype):
    own = model().to(dtype)
    assert {parameter.dtype for parameter in own.parameters()} == {dtype}
    value = own(IMAGES.to(dtype))
    assert value.dtype == dtype
    tolerance = {torch.float64: 1e-5}.get(dtype, 0.05)
    torch.testing.assert_close(value.float(), model()(IMAGES), rtol=tolerance, atol=tolerance)


def test_device_and_dtype_are_those_asked_for():
    own = model(device="meta", dtype=torch.bfloat16)
    assert {(parameter.device.type, parameter.dtype) for parameter in own.parameters()} == {("meta", torch.bfloat16)}
    with torch.device("meta"):
        assert model().head.weight.device.type == "meta"


def test_a_model_made_without_memory_is_filled_by_reset_parameters():
    own = model(device="meta").to_empty(device="cpu")
    own.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    torch.testing.assert_close(own(IMAGES), model()(IMAGES), rtol=0, atol=0)


def test_state_dict_has_the_library_s_names_and_loads_strictly():
    own, other = model(), model(seed=1)
    assert list(own.state_dict()) == [name for name, _ in own.definition.named_parameters()]
    other.load_state_dict(own.state_dict(), strict=True)
    assert torch.equal(other(IMAGES), own(IMAGES))


def test_pickle_and_torch_save_give_the_same_model():
    own = model()
    assert torch.equal(pickle.loads(pickle.dumps(own))(IMAGES), own(IMAGES))  # noqa: S301 - our own bytes
    file = io.BytesIO()
    torch.save(own, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(IMAGES), own(IMAGES))


def test_the_hyperparameters_show_in_the_repr():
    assert "TensorAttention(\n  embed_dim=8, num_heads=2" in repr(dtn.TensorAttention(8, 2))


def test_hooks_on_a_child_run():
    own, seen = model(), []
    own.blocks[0].attention.register_forward_hook(lambda module, given, value: seen.append(value.shape))
    own(IMAGES)
    assert seen == [(3, 4, 8)]


def test_trains():
    own = model()
    images, labels = IMAGES, torch.tensor([0, 3, 9])
    optimizer = torch.optim.Adam(own.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(own(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_weights_are_not_read_into_a_model_that_holds_none(tmp_path):
    given = {"embed_dim": 8, "num_heads": 2}
    dtn.save_weights(dtn.TensorAttention(**given), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"on the meta device.*model.to_empty"):
        dtn.load_weights(dtn.TensorAttention(**given, device="meta"), tmp_path / "weights.safetensors")


class TestCompiledInPlace:
    """``layer.compile()``: PyTorch keeps a compiled call on the module, which copies do without."""

    def test_a_copy_has_its_own_weights(self):
        own, x = dtn.TensorAttention(8, 2, seed=0), torch.ones(2, 5, 8)
        own.compile(backend="eager")
        own(x)
        other = copy.deepcopy(own)
        with torch.no_grad():
            other.out.weight.zero_()
            other.out.bias.zero_()
        assert not other(x).any()

    def test_it_is_pickled(self):
        own, x = dtn.TensorAttention(8, 2, seed=0), torch.ones(2, 5, 8)
        own.compile(backend="eager")
        expected = own(x)
        assert torch.allclose(pickle.loads(pickle.dumps(own))(x), expected, atol=1e-5)  # noqa: S301


def test_a_weight_that_is_computed_is_not_loaded(tmp_path):
    dtn.save_weights(dtn.TensorAttention(8, 2, seed=0), tmp_path / "a.safetensors")
    own = dtn.TensorAttention(8, 2, seed=1)
    torch.nn.utils.parametrizations.weight_norm(own.query, "weight")
    with pytest.raises(WeightsError, match=r"query\.weight is no parameter of the model, it is computed"):
        dtn.load_weights(own, tmp_path / "a.safetensors")
    dtn.save_weights(own, tmp_path / "b.safetensors")  # what is computed is what it computes with
    other = dtn.TensorAttention(8, 2, seed=2)
    dtn.load_weights(other, tmp_path / "b.safetensors")
    assert torch.equal(other(torch.ones(2, 5, 8)), own(torch.ones(2, 5, 8)))


def test_states_are_loaded_as_tensors_are(tmp_path):
    model = dtn.DeepTensorLM(11, 8, 2, 1, seed=0)
    state = model.resume(torch.tensor([[1, 2, 3]]))[1]
    torch.save(state, tmp_path / "state.pt")
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(model.step(torch.tensor([4]), found)[0], model.step(torch.tensor([4]), state)[0])


def test_a_wrapper_says_where_the_layer_is(tmp_path):
    wrapped = torch.nn.DataParallel(model())
    for wrong in (dtn.save_weights, dtn.load_weights):
        with pytest.raises(TypeError, match=r"expected a layer .*, got DataParallel; save or load its \.module"):
            wrong(wrapped, tmp_path / "a.safetensors")


def test_real_weights_are_loaded_into_a_complex_model_and_not_back(tmp_path):
    real, wide = (
        dtn.TensorAttention(8, 2, seed=seed, dtype=dtype) for seed, dtype in enumerate((torch.float32, torch.complex64))
    )
    dtn.save_weights(real, tmp_path / "a.safetensors")
    dtn.load_weights(wide, tmp_path / "a.safetensors")
    assert torch.equal(wide.out.weight, real.out.weight.to(torch.complex64))
    dtn.save_weights(wide, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"query\.weight: complex64 .* in the file, float32 .* in the model"):
        dtn.load_weights(real, tmp_path / "b.safetensors")


class TestPackedSequences:
    """Where they start is a tensor that a compiled model reads anew at every call."""

    TOKENS = torch.from_numpy(np.random.default_rng(2).integers(0, 11, (2, 9)))

    def starts(self, *numbers):
        return torch.tensor(numbers, dtype=torch.int32)

    def test_one_graph_serves_all_starts_forward_and_backward(self):
        own, graphs = dtn.DeepTensorLM(11, 8, 2, 1, seed=0), []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(own, fullgraph=True, backend=backend)
        for starts in (self.starts(0, 3, 9), self.starts(0, 5, 9)):
            expected, found = own(self.TOKENS, cu_seqlens=starts), compiled(self.TOKENS, cu_seqlens=starts)
            torch.testing.assert_close(found, expected)
            gradients = [torch.autograd.grad(y.square().sum(), list(own.parameters())) for y in (found, expected)]
            torch.testing.assert_close(*gradients)
        assert len(graphs) == 1

    def test_a_block_is_recomputed_in_the_backward_pass(self):
        own, x = dtn.DeepTensorBlock(8, 2, mask="causal", seed=0), torch.randn(2, 9, 8)
        starts = self.starts(0, 3, 9)
        again = torch.utils.checkpoint.checkpoint(own, x, cu_seqlens=starts, use_reentrant=False)
        gradients = [
            torch.autograd.grad(y.square().sum(), list(own.parameters())) for y in (again, own(x, cu_seqlens=starts))
        ]
        torch.testing.assert_close(*gradients)
