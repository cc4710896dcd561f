import pytest


@pytest.fixture
def random_model():
    """Return a function that makes a small float64 model of an architecture.

    All its weights, norms and biases are random, so that none has a special value.
    """
    import torch

    from tests.compression import zoo

    def make(name: str):
        model = zoo.make(name).double()
        if name == "mixtral":
            # The fused experts compute in float32 or less.
            model.set_experts_implementation("eager")
        with torch.no_grad():
            for module in model.modules():
                for parameter in module.parameters(recurse=False):
                    if parameter.ndim == 1:
                        parameter.add_(0.3 * torch.randn_like(parameter))
                    elif not isinstance(module, torch.nn.Embedding):
                        parameter.mul_(5)
        return model

    return make
