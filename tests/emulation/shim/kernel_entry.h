// Lets Python call an instance of a kernel, and get the types of its parameters.
#pragma once

#include <cstring>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace emulation {

// Mirrored in parameters.py.
struct Parameter {
  int bytes;         // of the parameter itself
  int is_pointer;    // if so, the other members describe its elements
  int element_size;  // bytes
  int is_const;
  const char* type;  // its mangled name, a single letter for C's types
};

template <class P> Parameter describe() {
  typedef typename std::remove_pointer<P>::type Element;
  typedef typename std::remove_cv<Element>::type Plain;
  return {sizeof(P), std::is_pointer<P>::value, sizeof(Element), std::is_const<Element>::value,
          typeid(Plain).name()};
}

template <class... P> int describe_parameters(void (*)(P...), Parameter* out) {
  const Parameter all[] = {describe<P>()...};
  if (out) memcpy(out, all, sizeof all);
  return sizeof...(P);
}

template <class... P, size_t... Index>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(P...), void** arguments,
                                                 std::index_sequence<Index...>) {
  kernel(*static_cast<P*>(arguments[Index])...);
}

template <class... P>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(P...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<P...>());
}

}  // namespace emulation

// The instance comes last, as its template arguments have commas.
#define KERNEL_ENTRY(number, ...)                                                                \
  extern "C" __attribute__((no_sanitize("thread"))) void run_kernel_##number(void** arguments) { \
    emulation::call(__VA_ARGS__, arguments);                                                     \
  }                                                                                              \
  extern "C" int describe_kernel_##number(emulation::Parameter* out) {                           \
    return emulation::describe_parameters(__VA_ARGS__, out);                                     \
  }
