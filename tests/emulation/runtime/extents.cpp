// The names of memory.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "memory.h"

namespace emulation {

struct NamedExtent {
  Extent extent;
  const char* name;

  u64 row_of(u64 address) const {
    if (address < extent.first || extent.stride == 0) return 0;
    return std::min((address - extent.first) / extent.stride, extent.count - 1);
  }
  u64 row_begin(u64 row) const { return extent.first + row * extent.stride; }
  u64 row_end(u64 row) const { return row_begin(row) + extent.row_bytes; }
};

static std::vector<NamedExtent> extents;

void register_arguments() {
  extents.clear();
  if (!launch->check) return;
  for (u64 i = 0; i < launch->extent_count; ++i) {
    const Extent& extent = launch->extents[i];
    extents.push_back({extent, launch->argument_names[extent.argument]});
    const unsigned char permission = READABLE | (extent.writable ? WRITABLE : 0);
    for (u64 row = 0; row < extent.count; ++row) {
      set_permission(extent.first + row * extent.stride, extent.row_bytes, extent.granule, permission);
    }
  }
}

void register_shared(u64 first, u64 bytes, u32 element_size, const char* name) {
  if (!launch->check) return;
  // The largest power of two that divides the element's size, at most 8.
  const u32 granule = std::min(8u, element_size & -element_size);
  extents.push_back({{first, bytes, bytes, 1, element_size, granule, -1, 1}, name});
  set_permission(first, bytes, granule, READABLE | WRITABLE | SHARED);
}

void forget_shared(u64 first) {
  const auto found =
      std::find_if(extents.begin(), extents.end(), [=](const auto& e) { return e.extent.first == first; });
  if (found == extents.end()) return;
  clear_permission(first, found->extent.row_bytes);
  extents.erase(found);
}

static void write_row(char* to, size_t length, const NamedExtent& named, u64 row) {
  if (named.extent.count > 1) {
    snprintf(to, length, "row %llu of '%s'", static_cast<unsigned long long>(row), named.name);
  } else {
    snprintf(to, length, "'%s'", named.name);
  }
}

Description describe_element(u64 address) {
  for (const NamedExtent& named : extents) {
    const u64 row = named.row_of(address);
    if (address < named.row_begin(row) || address >= named.row_end(row)) continue;
    char in_row[160];
    write_row(in_row, sizeof in_row, named, row);
    Description description{named.name, ""};
    const u64 element = (address - named.row_begin(row)) / named.extent.element_size;
    snprintf(description.text, sizeof description.text, "element %llu of %s",
             static_cast<unsigned long long>(element), in_row);
    return description;
  }
  return {nullptr, "unnamed memory"};
}

// A row, and how far an access lies outside of it.
struct Distance {
  const NamedExtent* named = nullptr;
  u64 row = 0;
  u64 bytes = ~0ull;
  bool after = true;
};

static Distance distance_from_row(const NamedExtent& named, u64 row, u64 begin, u64 end) {
  Distance distance{&named, row, 0, true};
  if (begin < named.row_begin(row)) {
    distance.after = false;
    distance.bytes = named.row_begin(row) - begin;
  } else {
    distance.bytes = end > named.row_end(row) ? end - named.row_end(row) : 0;
  }
  return distance;
}

Description describe_distance(u64 begin, size_t bytes) {
  Distance nearest;
  for (const NamedExtent& named : extents) {
    const u64 row = named.row_of(begin), next = std::min(row + 1, named.extent.count - 1);
    for (u64 candidate : {row, next}) {
      const Distance distance = distance_from_row(named, candidate, begin, begin + bytes);
      if (distance.bytes < nearest.bytes) nearest = distance;
    }
  }
  if (!nearest.named) return {nullptr, "by a kernel without any memory"};
  char row[160];
  write_row(row, sizeof row, *nearest.named, nearest.row);
  Description description{nearest.named->name, ""};
  const char* side =
      nearest.after ? "that ends %llu bytes after the end of %s" : "that begins %llu bytes before %s";
  snprintf(description.text, sizeof description.text, side, static_cast<unsigned long long>(nearest.bytes),
           row);
  return description;
}

}  // namespace emulation
