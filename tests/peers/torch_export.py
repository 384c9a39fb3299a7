"""Exports two small networks from PyTorch, as people do, into the folder named.

Made once with PyTorch 1.13.1; what it wrote lies in crates/scoring/tests/data, because PyTorch is too large to be fetched
for a test. onnxruntime computes the scores to compare with when the test runs.
"""

import sys
from pathlib import Path

import torch
from torch import nn


class Probability(nn.Module):
    """One probability without a dimension of its own: BatchNorm, Dropout, LeakyReLU, a squeeze at the end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(24, 17), nn.LeakyReLU(0.05), nn.BatchNorm1d(17),
            nn.Linear(17, 8), nn.Tanh(), nn.Linear(8, 1),
        )

    def forward(self, x):
        return torch.sigmoid(self.layers(x)).squeeze(1)


class Classes(nn.Module):
    """Two inputs, GELU and ELU, and a softmax over two classes."""

    def __init__(self):
        super().__init__()
        self.amounts = nn.Linear(4, 12)
        self.flags = nn.Linear(2, 5, bias=False)
        self.head = nn.Linear(17, 2)

    def forward(self, amounts, flags):
        amounts = nn.functional.gelu(self.amounts(amounts.flatten(1)))
        both = torch.cat([amounts, nn.functional.elu(self.flags(flags))], dim=1)
        return torch.softmax(self.head(both) * 3.0, dim=1)


def settle(module):
    """Statistics and weights as after some training: far from what they start as."""
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.5)
            part.running_var.uniform_(0.2, 3.0)
    return module.eval()


def main():
    out = Path(sys.argv[1])
    torch.manual_seed(11)
    rows = {0: "rows"}
    torch.onnx.export(
        settle(Probability()), torch.randn(3, 6), out / "torch_probability.onnx",
        input_names=["features"], output_names=["fraud"], dynamic_axes={"features": rows, "fraud": rows},
    )
    torch.onnx.export(
        settle(Classes()), (torch.randn(3, 4), torch.randn(3, 2)), out / "torch_classes.onnx", opset_version=16,
        input_names=["amounts", "flags"], output_names=["probabilities"],
        dynamic_axes={"amounts": rows, "flags": rows, "probabilities": rows},
    )


main()
