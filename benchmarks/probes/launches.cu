// The smallest kernels. add_one depends on the launch before.
extern "C" __global__ void nothing(unsigned long long* counts) {}

extern "C" __global__ void add_one(unsigned long long* counts) {
  if (blockIdx.x == 0 && threadIdx.x == 0) ++counts[1];
}
