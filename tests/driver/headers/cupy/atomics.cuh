// In the place of CuPy's header of this name: no kernel here uses its atomics.
#pragma once
