"""Train the demo's LSTM classifier in PyTorch and write the demo's files.

    pip install torch scikit-learn . && python tests/train_digits.py

The data are scikit-learn's bundled handwritten digits: 8 x 8 images, fed row by row (T = 8, I = 8). A quarter of them
is held out. `fusedlstm demo` classifies that quarter, and compares with PyTorch's predictions, which are saved too.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fusedlstm import convert

UNITS = 64
EPOCHS = 60
FOLDER = Path(__file__).parents[1] / "fusedlstm" / "cli" / "demo"


class Classifier(torch.nn.Module):
    """An LSTM that reads an image row by row, and a linear layer that classifies its last h."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.LSTMCell(8, UNITS)
        self.head = torch.nn.Linear(UNITS, 10)

    def forward(self, images):
        """Return the logits (B, 10) of images (B, 8, 8)."""
        h = c = images.new_zeros(len(images), UNITS)
        for row in images.unbind(1):
            h, c = self.cell(row, (h, c))
        return self.head(h)


def main():
    """Train, report the accuracy, and write the two files."""
    torch.manual_seed(0)
    digits = load_digits()
    pixels = digits.images.astype(np.uint8)  # 0..16
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits.target, test_size=450, random_state=0, stratify=digits.target
    )
    model = Classifier()
    train(model, torch.tensor(train_x / 16, dtype=torch.float32), torch.tensor(train_y))
    with torch.inference_mode():
        logits = model(torch.tensor(test_x / 16, dtype=torch.float32)).numpy()
    predictions = logits.argmax(1)
    print(f"held-out accuracy {np.mean(predictions == test_y):.2%}")
    FOLDER.mkdir(exist_ok=True)
    convert.from_torch(model.cell).save(FOLDER / "digits_lstm.safetensors")
    np.savez_compressed(
        FOLDER / "digits.npz",
        images=test_x,
        labels=test_y.astype(np.uint8),
        head_weight=model.head.weight.detach().numpy(),
        head_bias=model.head.bias.detach().numpy(),
        torch_predictions=predictions.astype(np.uint8),
        torch_version=torch.__version__,
    )


def train(model, images, labels):
    """Minimise the cross entropy with Adam on shifted copies of the images."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(64):
            shift = int(torch.randint(-1, 2, ()))
            loss = torch.nn.functional.cross_entropy(model(images[batch].roll(shift, 2)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        schedule.step()


if __name__ == "__main__":
    main()
