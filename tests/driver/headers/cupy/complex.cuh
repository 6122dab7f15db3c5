// In the place of CuPy's header of this name: no kernel here computes with complex numbers.
#pragma once
