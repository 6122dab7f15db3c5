"""Run a module on the tests' fake driver: python -m benchmarks.gpu.on_fake_driver MODULE ARGUMENT...

Its times mean nothing. Rates aren't calibrated, as that takes minutes and needs PTX.
"""

import runpy
import sys


def main(module, *arguments):
    """Run a module as the main program."""
    import driver

    driver.install()
    from benchmarks import gpu_time, machine

    machine.machine_facts_limits = lambda *_: {}
    gpu_time._DELAY = 8
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
