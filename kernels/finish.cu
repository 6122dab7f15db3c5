// Finishes h: clips it, applies zoneout, and writes it to its destinations.
//
// Planned steps launch it for zoneout of h, or for a projection that is clipped, copied or not in place.
// Plain calls launch it for zoneout of h. With SEQUENCE, rows have flags: see flags.cuh.
#include "cell.cuh"
#include "flags.cuh"

template <typename T> struct FinishArguments {
  Matrix<const T> projected;  // (B, P); may be h itself
  Matrix<T> h;                // (B, P), or all slots'
  const int* slot_of_row;     // (B,): each row's slot, -1 to skip the row; null: row k uses row k
  Copy<T> copy;               // zeros if the row has no slot
  double limit;               // of the clip; infinite if there is none
  i64 B, P;
  Matrix<const T> old_h;       // (B, P), read only with ZONEOUT; may be h
  const unsigned char* flags;  // (B,), or null; read only with SEQUENCE. Then h must not be `projected`
  Matrix<const T> reset_h;     // (B, P), or one row, or null for zeros; read with ZONEOUT and SEQUENCE
  Matrix<const T> last;        // (B, P): what the copy of an idle row gets; null: zeros
};

// Launched with rows on grid x and columns on grid y, so that no thread divides.
template <typename T, u64 ZONEOUT = 0, bool SEQUENCE = false>
__global__ void __launch_bounds__(256) lstm_finish(const FinishArguments<T> a) {
  typedef typename Arithmetic<T>::type A;
  const i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (row >= a.B || column >= a.P) return;

  const unsigned char flags = SEQUENCE && a.flags ? a.flags[row] : 0;
  const i64 slot = flags & FLAG_IDLE ? -1 : a.slot_of_row ? a.slot_of_row[row] : row;
  T output = Narrow<T>::of(0);
  if (slot >= 0) {
    output = Narrow<T>::of(clip(A(widen(a.projected.at[row * a.projected.stride + column])), A(a.limit)));
    if (ZONEOUT) {
      const Matrix<const T>& old = flags ? a.reset_h : a.old_h;
      const A before = flags && !old.at ? A(0) : A(widen(old.at[row * old.stride + column]));
      output = Narrow<T>::of(keep_part<ZONEOUT>(before, A(widen(output))));
    }
    a.h.at[slot * a.h.stride + column] = output;
    if (a.copy.to.at && a.copy.input.at) {
      output = Narrow<T>::of(widen(output) + widen(a.copy.input.at[row * a.copy.input.stride + column]));
    }
  } else if (SEQUENCE && a.last.at) {
    output = a.last.at[row * a.last.stride + column];
  }
  if (a.copy.to.at) a.copy.to.at[row * a.copy.to.stride + column] = output;
}
