// What the rows of a sequence do in a step, one byte for each. sequence_flags.cu writes the bytes, and the
// kernels of steps only read them. A row without a flag takes the step.
#pragma once

enum Flag {
  FLAG_RESET = 1,  // the row is reset, then takes the step
  FLAG_IDLE = 2    // the row takes no step: it keeps its h and c, even with FLAG_RESET
};
