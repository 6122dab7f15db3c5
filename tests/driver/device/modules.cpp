// cuModule*, cuFunc*, cuLaunchKernel: Python makes emulated kernels of code, which is a description.
#include "modules.h"

#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <vector>

#include "api.h"
#include "captures.h"
#include "launch.h"
#include "tasks.h"

namespace driver {

static FindKernel find_kernel;
static int schedule_order = 0;
static unsigned long long schedule_seed = 0;

struct Module {
  std::string description;
  int device;
};

struct Function {
  Kernel kernel;
  std::string name;
  int device;
  const Module* module;
  size_t most_shared = 48 << 10;
};

static std::set<const Function*> functions;  // of loaded modules

// Returns the instance of a lowered name, which nvrtc.cpp made. Returns other names unchanged.
static std::string instance_of(const std::string& name) {
  const std::string lowered = "lowered";
  if (name.compare(0, lowered.size(), lowered) != 0) return name;
  std::string instance;
  for (size_t at = lowered.size(); at != std::string::npos; at = name.find('_', at + 1)) {
    instance += static_cast<char>(atoi(name.c_str() + at + 1));
  }
  return instance;
}

// Copies of a launch's arguments, as the launch may run later.
struct Arguments {
  std::vector<std::vector<char>> bytes;

  Arguments(const Kernel& kernel, void** values) {
    for (int k = 0; k < kernel.parameters; ++k) {
      const char* value = static_cast<const char*>(values[k]);
      bytes.emplace_back(value, value + kernel.sizes[k]);
    }
  }
};

// The memory that a launch may touch, by the bytes of its struct. Python knows the arrays behind its
// pointers.
struct Checks {
  std::vector<emulation::Extent> extents;
  std::vector<std::string> names;
};
static std::map<std::string, Checks> checks;

static void add_checks(emulation::Launch& request, const Arguments& arguments,
                       std::vector<const char*>& names) {
  if (arguments.bytes.size() != 1) return;
  const auto found = checks.find({arguments.bytes[0].begin(), arguments.bytes[0].end()});
  if (found == checks.end()) return;
  names.clear();
  for (const std::string& name : found->second.names) names.push_back(name.c_str());
  request.check = 1;
  request.extents = found->second.extents.data();
  request.extent_count = found->second.extents.size();
}

static void run(const Function& function, const unsigned (&grid)[3], const unsigned (&block)[3],
                unsigned shared, const Arguments& arguments) {
  if (!functions.count(&function)) return break_context(function.name + ": its module has been unloaded");
  std::vector<std::vector<char>> own = arguments.bytes;  // a kernel may write to its parameters
  std::vector<void*> pointers;
  std::vector<const char*> names(own.size(), "argument");
  for (auto& bytes : own) pointers.push_back(bytes.data());
  emulation::Launch request{};
  request.kernel = function.kernel.run;
  request.arguments = pointers.data();
  memcpy(request.grid, grid, sizeof grid);
  memcpy(request.block, block, sizeof block);
  request.dynamic_shared_bytes = shared;
  request.co_resident = 4;
  request.order = schedule_order;
  request.seed = schedule_seed;
  add_checks(request, arguments, names);
  request.argument_names = names.data();
  function.kernel.launch(&request);
  if (request.kind[0]) break_context(function.name + ": " + request.kind + ": " + request.text);
}

}  // namespace driver

using namespace driver;

extern "C" void driver_set_find_kernel(FindKernel find) { find_kernel = find; }

// Sets the order of a kernel's threads. emulation/schedules.py defines the orders.
extern "C" void driver_set_schedule(int order, unsigned long long seed) {
  schedule_order = order;
  schedule_seed = seed;
}

// From now on, launches with a struct of these bytes may only touch these extents. Every access is checked.
extern "C" void driver_check(const char* bytes, size_t size, const emulation::Extent* extents, size_t count,
                             const char* const* names, size_t name_count) {
  const Locked locked(lock);
  checks[{bytes, size}] = {{extents, extents + count}, {names, names + name_count}};
}

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_ERROR_INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      break;
    case CUDA_ERROR_INVALID_IMAGE:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      break;
    case CUDA_ERROR_FILE_NOT_FOUND:
      *name = "CUDA_ERROR_FILE_NOT_FOUND";
      break;
    case CUDA_ERROR_INVALID_HANDLE:
      *name = "CUDA_ERROR_INVALID_HANDLE";
      break;
    case CUDA_ERROR_NOT_FOUND:
      *name = "CUDA_ERROR_NOT_FOUND";
      break;
    case CUDA_ERROR_LAUNCH_FAILED:
      *name = "CUDA_ERROR_LAUNCH_FAILED";
      break;
    case CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE:
      *name = "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE";
      break;
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
      *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
      break;
    default:
      *name = "CUDA_ERROR";
      break;
  }
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_LAUNCH_FAILED ? cudaGetErrorString(cudaErrorLaunchFailure)
                                            : "raised by the fake driver";
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* out) {
  *out = reinterpret_cast<CUcontext>(static_cast<uintptr_t>(current_device() + 1));
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  const Locked locked(lock);
  if (check_unsafe_call()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  const char* begin = static_cast<const char*>(image);
  size_t length = 0;
  if (strncmp(begin, IMAGE_MAGIC, strlen(IMAGE_MAGIC)) != 0) return CUDA_ERROR_INVALID_IMAGE;
  begin += strlen(IMAGE_MAGIC);
  if (sscanf(begin, "%zu:", &length) != 1) return CUDA_ERROR_INVALID_IMAGE;
  begin = strchr(begin, ':') + 1;
  if (begin[length] != IMAGE_END) return CUDA_ERROR_INVALID_IMAGE;
  *out = reinterpret_cast<CUmodule>(new Module{std::string(begin, length), current_device()});
  return CUDA_SUCCESS;
}

CUresult cuModuleLoad(CUmodule* out, const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  const std::string image{std::istreambuf_iterator<char>(file), {}};
  return cuModuleLoadData(out, image.c_str());
}

CUresult cuModuleUnload(CUmodule handle) {
  const Locked locked(lock);
  if (check_unsafe_call()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  const Module* module = reinterpret_cast<Module*>(handle);
  run_all(module->device);  // as CUDA waits before it frees memory
  // Functions are never freed, as graphs point to them.
  for (auto at = functions.begin(); at != functions.end();) {
    at = (*at)->module == module ? functions.erase(at) : std::next(at);
  }
  delete module;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  const Module* module = reinterpret_cast<Module*>(handle);
  Function made{{}, instance_of(name), module->device, module};
  const int found = work_is_dropped() ||
                    find_kernel(module->description.data(), module->description.size(), name, &made.kernel);
  if (!found) return CUDA_ERROR_NOT_FOUND;
  const Locked locked(lock);
  Function* function = new Function(made);
  functions.insert(function);
  *out = reinterpret_cast<CUfunction>(function);
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute name, int value) {
  const Locked locked(lock);
  Function* function = reinterpret_cast<Function*>(handle);
  if (!functions.count(function)) return CUDA_ERROR_INVALID_HANDLE;
  if (name == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
  if (name == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) return CUDA_SUCCESS;
  if (name != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
  if (value < 0 || value > 227 << 10) return CUDA_ERROR_INVALID_VALUE;
  function->most_shared = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute name, CUfunction handle) {
  const Locked locked(lock);
  const Function* function = reinterpret_cast<Function*>(handle);
  *value =
      name == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ? static_cast<int>(function->most_shared) : 0;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        CUstream stream, void** values, void**) {
  const Locked locked(lock);
  if (is_broken()) return CUDA_ERROR_LAUNCH_FAILED;
  Function* function = reinterpret_cast<Function*>(handle);
  if (!functions.count(function) || function->device != current_device()) return CUDA_ERROR_INVALID_HANDLE;
  const bool grid_fits =
      grid_x && grid_y && grid_z && grid_x <= 2147483647 && grid_y <= 65535 && grid_z <= 65535;
  const bool block_fits = block_x && block_y && block_z && block_x <= 1024 && block_y <= 1024 &&
                          block_z <= 64 && block_x * block_y * block_z <= 1024;
  if (!grid_fits || !block_fits || shared > function->most_shared) return CUDA_ERROR_INVALID_VALUE;
  const Arguments arguments(function->kernel, values);
  const Work work = [=] {
    run(*function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, arguments);
  };
  const cudaError_t error = queue(reinterpret_cast<cudaStream_t>(stream), {"kernel", function->name, work});
  return static_cast<CUresult>(error);  // these errors have the same numbers in both APIs
}

// Checks that all blocks would run together, with one on each multiprocessor. They don't in the emulator.
CUresult cuLaunchCooperativeKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                                   CUstream stream, void** values) {
  if (size_t(grid_x) * grid_y * grid_z > MULTIPROCESSORS) return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  return cuLaunchKernel(handle, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, values,
                        nullptr);
}
