// Warp collectives: every lane of the mask passes its part, and the last to arrive computes for all.
#pragma once

#include <cstring>

#include "language.h"

namespace emulation {

template <class T> struct Shuffle {
  T value, received;
  int source;  // a lane, or -1 to keep the lane's own value

  static UNCHECKED void run(void** lanes, unsigned mask) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      Shuffle* mine = static_cast<Shuffle*>(lanes[lane]);
      if (mine->source < 0) {
        mine->received = mine->value;
      } else if (mask >> mine->source & 1) {
        mine->received = static_cast<Shuffle*>(lanes[mine->source])->value;
      } else {
        memset(static_cast<void*>(&mine->received), 0xFF, sizeof(T));  // undefined on a GPU
      }
    }
  }
};

template <class T> EMULATED T shuffle(unsigned mask, T value, int source) {
  Shuffle<T> part{value, value, source};
  warp_collective(mask, Shuffle<T>::run, &part, false);
  return part.received;
}

struct Vote {
  bool value;
  unsigned result;

  static UNCHECKED void run(void** lanes, unsigned mask) {
    unsigned result = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if ((mask >> lane & 1) && static_cast<Vote*>(lanes[lane])->value) result |= 1u << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (mask >> lane & 1) static_cast<Vote*>(lanes[lane])->result = result;
    }
  }
};

EMULATED unsigned vote(unsigned mask, bool value) {
  Vote part{value, 0};
  warp_collective(mask, Vote::run, &part, false);
  return part.result;
}

inline void meet(void**, unsigned) {}

}  // namespace emulation

// The warp is split into parts of `width` lanes. With a source outside its part, a lane keeps its value.
template <class T> EMULATED T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = emulation::lane() & ~(width - 1);
  return emulation::shuffle(mask, value, first | (source & (width - 1)));
}
template <class T> EMULATED T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = emulation::lane(), source = lane ^ bits;
  const bool later_part = (source & ~(width - 1)) > (lane | (width - 1));
  return emulation::shuffle(mask, value, later_part || source > 31 ? -1 : source);
}
template <class T> EMULATED T __shfl_down_sync(unsigned mask, T value, int distance, int width = 32) {
  const int lane = emulation::lane();
  return emulation::shuffle(mask, value, (lane & (width - 1)) + distance < width ? lane + distance : -1);
}
template <class T> EMULATED T __shfl_up_sync(unsigned mask, T value, int distance, int width = 32) {
  const int lane = emulation::lane();
  return emulation::shuffle(mask, value, (lane & (width - 1)) - distance >= 0 ? lane - distance : -1);
}

EMULATED unsigned __ballot_sync(unsigned mask, int value) { return emulation::vote(mask, value); }
EMULATED int __any_sync(unsigned mask, int value) { return emulation::vote(mask, value) != 0; }
EMULATED int __all_sync(unsigned mask, int value) { return emulation::vote(mask, value) == mask; }

// Unlike shuffles and votes, this orders memory.
EMULATED void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::warp_collective(mask, emulation::meet, nullptr, true);
}
