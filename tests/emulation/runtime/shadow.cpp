// A table of granules by address. It has pages only for memory that a kernel may access.
#include <memory>
#include <unordered_map>

#include "memory.h"

namespace emulation {

static const u64 PAGE_BYTES = 1024;

struct Page {
  u32 granule_size;
  std::vector<Granule> granules;
};

static std::unordered_map<u64, std::unique_ptr<Page>> pages;

// A cache of pages, as a kernel works on few arrays at once.
static const size_t REMEMBERED = 64;
static struct {
  u64 number;
  Page* page;
} remembered[REMEMBERED];

static void forget_remembered() {
  for (auto& entry : remembered) entry.page = nullptr;
}

static Page* page_at(u64 address) {
  const u64 number = address / PAGE_BYTES;
  auto& entry = remembered[number % REMEMBERED];
  if (entry.page && entry.number == number) return entry.page;
  const auto found = pages.find(number);
  if (found == pages.end()) return nullptr;
  entry.number = number;
  entry.page = found->second.get();
  return entry.page;
}

Granule* granule_at(u64 address) {
  Page* page = page_at(address);
  if (!page) return nullptr;
  Granule& granule = page->granules[address % PAGE_BYTES / page->granule_size];
  return granule.permission ? &granule : nullptr;
}

u64 granule_size_at(u64 address) { return page_at(address)->granule_size; }

void set_permission(u64 first, u64 bytes, u32 granule_size, unsigned char permission) {
  for (u64 address = first; address < first + bytes; address += granule_size) {
    auto& page = pages[address / PAGE_BYTES];
    if (!page) {
      page = std::make_unique<Page>();
      page->granule_size = granule_size;
      page->granules.resize(PAGE_BYTES / granule_size);
    }
    page->granules[address % PAGE_BYTES / granule_size].permission |= permission;
  }
}

void clear_permission(u64 first, u64 bytes) {
  for (u64 number = first / PAGE_BYTES; number <= (first + bytes) / PAGE_BYTES; ++number) pages.erase(number);
  forget_remembered();
}

void forget_memory() {
  pages.clear();
  forget_remembered();
  forget_releases();
}

}  // namespace emulation
