"""Find out whether CUDA is broken for this process. After an illegal access, for example, every call of it fails."""

import sys

# Of cudaError_t: those after which a process must end.
STICKY = {
    214: "an ECC error that can't be corrected",
    700: "an illegal address",
    702: "a launch that timed out",
    709: "a destroyed context",
    710: "an assertion in a kernel",
    714: "a hardware stack error",
    715: "an illegal instruction",
    716: "a misaligned address",
    717: "an invalid address space",
    718: "an invalid program counter",
    719: "a launch that failed",
    721: "a tensor's memory that leaked",
    999: "an unknown error",
}


def why():
    """Return what broke CUDA here, or None. Nothing is asked if CuPy was not imported."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return None
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except Exception as error:  # CuPy's are of several kinds
        status = getattr(error, "status", None)
        return f"{STICKY[status]} ({error})" if status in STICKY else None
    return None
