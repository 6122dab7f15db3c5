"""All cases of hints, by name."""

from support.hints import (
    calls,
    commands,
    containers,
    from_jax,
    from_keras,
    from_onnx,
    from_others,
    from_tf1,
    from_torch,
    inputs,
    modules,
    owners,
    states,
    tf1_checkpoints,
)

_BY_SUBJECT = (
    *(states, inputs, owners, calls, modules, commands, containers),
    *(from_torch, from_keras, from_onnx, from_tf1, tf1_checkpoints, from_jax, from_others),
)
CASES = {name: case for subject in _BY_SUBJECT for name, case in subject.CASES.items()}
assert len(CASES) == sum(len(subject.CASES) for subject in _BY_SUBJECT), "two cases have the same name"
