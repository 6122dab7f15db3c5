"""Train LSTMs in PyTorch, with resets inside sequences and every option of `fusedlstm.LSTMWeights`.

    LSTM        layers and directions as a torch.nn.Module; its parameters are those of torch.nn.LSTM
    LSTMCell    one step as a torch.nn.Module; its parameters are those of torch.nn.LSTMCell

Both compute on the CPU. They take and return `fusedlstm.LSTMState`.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("fusedlstm.torch needs PyTorch: install fusedlstm[torch]", name="torch") from None

from fusedlstm.help_text import break_signatures
from fusedlstm.torch import states
from fusedlstm.torch.cell import LSTMCell
from fusedlstm.torch.lstm import LSTM

__all__ = ["LSTM", "LSTMCell"]

break_signatures([LSTM, LSTMCell])
states.register()
