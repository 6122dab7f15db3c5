"""Run a module on the tests' fake driver: python -m benchmarks.gpu.on_fake_driver MODULE ARGUMENT...

Its times mean nothing. What needs PTX is left out: the calibration of rates, and the GPU's own times.
"""

import runpy
import sys


def main(module, *arguments):
    """Run a module as the main program."""
    import driver

    driver.install()
    from benchmarks import machine, side_by_side

    machine.machine_facts_limits = lambda *_: {}
    side_by_side.gpu_and_host_seconds = lambda _: {}
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
