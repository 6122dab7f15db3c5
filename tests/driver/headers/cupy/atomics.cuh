// Replaces CuPy's header of this name, as no kernel here uses its atomics.
#pragma once
