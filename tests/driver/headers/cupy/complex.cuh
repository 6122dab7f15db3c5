// Replaces CuPy's header of this name, as no kernel here computes with complex numbers.
#pragma once
