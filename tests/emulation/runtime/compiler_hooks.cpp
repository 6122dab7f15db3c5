// Functions that a kernel compiled with -fsanitize=thread,undefined calls. They replace the sanitizers'
// libraries, which are not linked.
#include <cstdint>

#include "faults.h"
#include "memory.h"

using namespace emulation;

#define PLACE __builtin_return_address(0)

static void on_access(const void* at, size_t bytes, AccessKind kind, const void* place) {
  trace_access(at, bytes, kind, place);
  check_access(at, bytes, kind, place);
}

extern "C" {

// Called before each access to memory (thread sanitizer).
#define ON_ACCESS(bytes)                                                             \
  void __tsan_read##bytes(void* at) { on_access(at, bytes, READ, PLACE); }           \
  void __tsan_write##bytes(void* at) { on_access(at, bytes, WRITE, PLACE); }         \
  void __tsan_unaligned_read##bytes(void* at) { on_access(at, bytes, READ, PLACE); } \
  void __tsan_unaligned_write##bytes(void* at) { on_access(at, bytes, WRITE, PLACE); }
ON_ACCESS(1)
ON_ACCESS(2)
ON_ACCESS(4)
ON_ACCESS(8)
ON_ACCESS(16)
void __tsan_read_range(void* at, size_t bytes) { on_access(at, bytes, READ, PLACE); }
void __tsan_write_range(void* at, size_t bytes) { on_access(at, bytes, WRITE, PLACE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Called for undefined behaviour (undefined behaviour sanitizer). The structs have the compiler's layouts.
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  SourceLocation location;
  TypeDescriptor* type;
  unsigned char alignment_log2, check;
};

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t address) {
  const unsigned alignment = 1u << data->alignment_log2;
  if (address == 0)
    fault({"null pointer", PLACE}, "an access to %s through a null pointer", data->type->name);
  if (address % alignment == 0) fault({"undefined", PLACE}, "an object too small for %s", data->type->name);
  const Description element = describe_element(address);
  fault({"misaligned", PLACE, element.memory}, "%s at %s needs an address that is a multiple of %u",
        data->type->name, element.text, alignment);
}

void __ubsan_handle_out_of_bounds(SourceLocation*, uintptr_t index) {
  fault({"out of bounds", PLACE}, "index %lld of an array of fixed size", static_cast<long long>(index));
}

#define ON_UNDEFINED(name, what) \
  void __ubsan_handle_##name(SourceLocation*, ...) { fault({"undefined", PLACE}, what); }
ON_UNDEFINED(add_overflow, "a signed + overflows")
ON_UNDEFINED(sub_overflow, "a signed - overflows")
ON_UNDEFINED(mul_overflow, "a signed * overflows")
ON_UNDEFINED(negate_overflow, "a negation overflows")
ON_UNDEFINED(divrem_overflow, "a division overflows, or is by zero")
ON_UNDEFINED(shift_out_of_bounds, "a shift by too many bits, or of a negative number")
ON_UNDEFINED(load_invalid_value, "a bool or enum with an invalid value")
ON_UNDEFINED(builtin_unreachable, "code that should be unreachable")
ON_UNDEFINED(missing_return, "a function without a return")
ON_UNDEFINED(nonnull_arg, "a null argument that must not be null")

}  // extern "C"
